"""Digests of vocabularies: equal for the same tokens under the same ids, and for nothing else."""

import pathlib

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from drafthouse.engine.vocabulary import digest_of, vocabulary_digest
from drafthouse.policy.vocabularies import agree


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1, "b": 0},
        {"a": 0},
        {"a": 0, "b": 1, "c": 2},
        {"a": 0, "c": 1},
        {"a": 0, "b": 2},
        {"a": 0, "b1 1 ": 1},
        {"a": 0, "b": 1, "x": 1},
        {"a": 0, "\ud800": 1},
    ],
)
def test_another_vocabulary_has_another_digest(other: dict[str, int]) -> None:
    assert digest_of(other) != digest_of({"a": 0, "b": 1})


def test_order_does_not_matter() -> None:
    assert digest_of({"b": 1, "a": 0}) == digest_of({"a": 0, "b": 1})


def test_it_is_that_of_the_folders_tokenizer(tmp_path: pathlib.Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "y": 1}, unk_token="x"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    assert vocabulary_digest(str(tmp_path)) == digest_of({"x": 0, "y": 1})


def test_a_folder_without_a_tokenizer_has_none(tmp_path: pathlib.Path) -> None:
    assert vocabulary_digest(str(tmp_path)) == ""


@pytest.mark.parametrize(("one", "other", "fit"), [("a", "a", True), ("a", "b", False), ("", "b", True), ("a", "", True), ("", "", True)])
def test_what_is_not_known_agrees_with_all(one: str, other: str, fit: bool) -> None:
    assert agree(one, other) is fit
