"""What tells two models apart: replicas of one fingerprint must give the same text."""

import pathlib
from types import SimpleNamespace

import pytest

from drafthouse.config.serving import ModelConfig
from drafthouse.engine import loader
from drafthouse.engine.loader import fingerprint

CONFIG = ModelConfig(path="unused")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.model", "tokenizer.json", "merges.txt"])
def test_every_file_that_decides_the_text_counts(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"one")
    first = fingerprint(str(tmp_path), CONFIG)
    assert fingerprint(str(tmp_path), CONFIG) == first
    (tmp_path / name).write_bytes(b"two")
    assert fingerprint(str(tmp_path), CONFIG) != first
    assert fingerprint(str(tmp_path), ModelConfig(path="unused", dtype="float64")) != fingerprint(str(tmp_path), CONFIG)


def test_of_a_hub_id_the_commit_at_hand_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may have an older download than another."""
    found = []
    for commit in ("aaa", "bbb", "aaa"):
        known = SimpleNamespace(from_pretrained=lambda path, commit=commit: SimpleNamespace(_commit_hash=commit))
        monkeypatch.setattr(loader, "AutoConfig", known)
        found.append(fingerprint("org/name", CONFIG))
    assert found[0] == found[2] != found[1]
