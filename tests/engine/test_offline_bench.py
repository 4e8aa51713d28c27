"""`drafthouse bench offline` on tiny models: what it counts and writes. Nothing here looks at how fast anything was."""

import json
import pathlib

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from benchmarks.commands import bench_app
from benchmarks.harness.interleave import SAMPLINGS
from tests.engine.tiny_models import VOCAB_SIZE, tiny

PROMPTS, TOKENS = 2, 8


def save(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """A tiny Llama whose vocabulary is the 256 bytes."""
    tiny("llama", seed, torch.float32).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(alphabet) == VOCAB_SIZE
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    root = tmp_path_factory.mktemp("models")
    return save(root / "target", 0), save(root / "draft", 1)


def arguments(folders: tuple[pathlib.Path, pathlib.Path], *more: str) -> list[str]:
    """The last of an option given twice counts."""
    target, draft = map(str, folders)
    prompts = folders[0].parent / "prompts.json"
    prompts.write_text(json.dumps(["def add(a, b):\n", {"text": "import os\n"}]))
    common = ["--threads", "1", "--prompts", str(PROMPTS), "--tokens", str(TOKENS), "--prompts-file", str(prompts)]
    return ["offline", "--target", target, "--draft", draft, *common, *more]


def test_report_has_every_contestant_and_ratio(folders: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "report.json"
    result = CliRunner().invoke(bench_app, arguments(folders, "--json", str(file)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    assert len(report["tokens_per_second"]) == 6
    assert {"ours_vs_transformers_plain", "ours_vs_transformers_assisted", "plain_vs_transformers_plain"} <= report["ratios"].keys()
    numbers = [*report["tokens_per_second"].values(), *report["ratios"].values(), *report["tokens_per_step"].values(), report["control"]]
    for number in numbers:
        assert set(number) == set(SAMPLINGS)
        assert all(value > 0 for value in number.values())
    for interval in report["intervals"]["control"].values():
        assert interval["low"] <= interval["high"]


def test_steps_are_counted_alike(folders: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Without speculation each pass of the target gives one token, in ours and in transformers; texts are equal or near-ties."""
    file = tmp_path / "report.json"
    result = CliRunner().invoke(bench_app, arguments(folders, "--json", str(file)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    for name in ("ours without speculation", "transformers"):
        assert report["tokens_per_step"][name] == dict.fromkeys(SAMPLINGS, 1.0)
    assert report["tokens_per_step"]["ours"]["greedy"] >= 1.0
    for name, counts in report["greedy_texts"].items():
        assert counts["compared"] == PROMPTS, name
        assert counts["unexplained"] == 0, name
    settings = report["settings"]
    assert (settings["tokens"], settings["threads"], settings["dtype"]) == (TOKENS, 1, "float32")
    assert "inflated_from" not in settings["target"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--tokens", "5000"], "--tokens"),
        (["--prompts", "100000"], "--prompts"),
        (["--prompts-file", "/nowhere.json"], "--prompts-file"),
        (["--json", "/nowhere/report.json"], "--json"),
        (["--target", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_options_are_named(folders: tuple[pathlib.Path, pathlib.Path], more: list[str], words: str) -> None:
    result = CliRunner().invoke(bench_app, arguments(folders, *more))
    assert result.exit_code == 1
    assert words in result.output


def test_inflated_targets_are_labelled(folders: tuple[pathlib.Path, pathlib.Path], tmp_path: pathlib.Path) -> None:
    target = save(tmp_path / "inflated", 0)
    config = json.loads((target / "config.json").read_text()) | {"drafthouse_inflated_from": "target"}
    (target / "config.json").write_text(json.dumps(config))
    file = tmp_path / "report.json"
    result = CliRunner().invoke(bench_app, arguments((target, folders[1]), "--json", str(file)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["settings"]["target"]["inflated_from"] == "target"
    assert "inflated from target" in " ".join(result.output.split())
