"""`drafthouse bench sampling`: every kind is timed, and filters are held against a sort."""

import json
import pathlib

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import sampling
from benchmarks.sampling import KINDS, SPREADS
from deployments.cli.main import build_cli
from drafthouse.filters import Kept, kept

COMMAND = ["bench", "sampling", "--vocab", "2048", "--rounds", "1"]


def test_every_kind_is_timed(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "sampling.json"
    result = CliRunner().invoke(build_cli(), [*COMMAND, "--json", str(file)])
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text(encoding="utf-8"))["sampling"]
    assert [(row["spread"], row["kind"]) for row in rows] == [(spread, kind) for spread in SPREADS for kind in KINDS]
    for row in rows:
        filters = KINDS[row["kind"]].filters
        assert row["choose_ms"] > 0.0
        assert (row["filters_ms"] is not None) == (row["sorted_ms"] is not None) == (row["kept"] is not None) == filters
    assert {row["kept"] for row in rows if row["kind"] == "top-k 50"} == {50.0}


def test_filters_that_keep_something_else_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(scaled: torch.Tensor, each: list[object], head: int = 256) -> Kept:
        rows, tokens = kept(scaled, each, head)  # type: ignore[arg-type]
        return (rows[1:], tokens[1:]) if head == 1 else (rows, tokens)

    monkeypatch.setattr(sampling, "kept", wrong)
    result = CliRunner().invoke(build_cli(), COMMAND)
    assert result.exit_code == 1
    assert "keep other tokens than a sort of all would" in result.output
