"""`drafthouse bench gpu` where there is no GPU: the same checks and the same measuring at toy size."""

import json
import pathlib
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.commands import bench_app
from benchmarks.gpu import bench, checks
from benchmarks.gpu.bench import copy_bandwidth

SMALL = ["gpu", "--tokens", "6", "--rounds", "1", "--checks", "2", "--batches", "1,3"]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the bench runs at full size")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    file = tmp_path_factory.mktemp("gpu") / "report.json"
    result = CliRunner().invoke(bench_app, [*SMALL, "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "TOY" in result.output
    return json.loads(file.read_text())


@needs_no_gpu
def test_the_report_is_marked_and_whole(report: dict) -> None:
    assert report["toy"]
    assert [check["passed"] for check in report["checks"]] == [True] * 5
    assert report["settings"]["cuda_graphs"] is False
    assert report["settings"]["parameters"]["target"] > 2 * report["settings"]["parameters"]["draft"]
    assert [batch["batch"] for batch in report["batches"]] == [1, 3]
    for batch in report["batches"]:
        assert batch["tokens_per_step"][bench.OFF]["greedy"] == pytest.approx(batch["batch"], rel=0.3)
        assert 0 < batch["plain_share_of_copy_bandwidth"] < 2
        assert batch["control"].keys() == {"greedy", "sampled"}


@needs_no_gpu
def test_a_check_that_fails_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    failed = checks.Check("noise equals the CPU's", False, "1 of 5 values differ")
    monkeypatch.setattr(checks, "check_noise", lambda device: failed)
    result = CliRunner().invoke(bench_app, [*SMALL, "--batches", "1"])
    assert result.exit_code == 1
    assert "FAILED noise equals the CPU's: 1 of 5" in result.output


@pytest.mark.parametrize("batches", ["", "one", "0", "33"])
def test_batches_that_cannot_be(batches: str) -> None:
    result = CliRunner().invoke(bench_app, ["gpu", "--batches", batches])
    assert result.exit_code == 1
    assert "--batches" in result.stderr


def test_texts_count_what_went_wrong() -> None:
    good = checks.Texts(compared=4, equal=3, explained=1, unexplained=0, accepted=9, leaked=0)
    assert checks.check_texts(good, "float32").passed
    for bad in (replace(good, unexplained=1), replace(good, accepted=0), replace(good, leaked=5)):
        assert not checks.check_texts(bad, "float32").passed


def test_a_model_that_computes_something_else_is_found() -> None:
    pair = checks.Pair(checks.TARGET, checks.DRAFT, "float32", 1, 1024)
    target, draft = checks.load_pair(pair)
    right = target.runner.run
    target.runner.run = lambda segments: replace(result := right(segments), logits=-result.logits)  # type: ignore[method-assign]
    found = checks.compare(pair, target, draft, prompts=1, tokens=4)
    assert found.unexplained > 0
    assert not checks.check_texts(found, "float32").passed


def test_bandwidth_is_a_number_of_bytes_per_second() -> None:
    assert 1e7 < copy_bandwidth("cpu", 8 << 20) < 1e13
