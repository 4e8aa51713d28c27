"""`drafthouse bench step`: each kind of step is timed, stage by stage, and its steps are what they are said to be."""

import json
import pathlib

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.step import BEST, CONTROL, KINDS, PARENTS, STAGES, Served
from deployments.cli.main import build_cli
from drafthouse.errors import ModelError


def test_every_kind_is_timed_by_stage(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "step.json"
    result = CliRunner().invoke(build_cli(), ["bench", "step", "--sequences", "3", "--steps", "5", "--json", str(file)])
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text(encoding="utf-8"))
    assert (report["settings"]["sequences"], report["settings"]["nodes"]) == (3, len(PARENTS))
    assert [row["kind"] for row in report["steps"]] == list(KINDS)
    assert CONTROL in KINDS
    for row in report["steps"]:
        assert list(row["stages_ms"]) == list(STAGES)
        assert all(figure > 0.0 for figure in row["stages_ms"].values())
        assert 0.0 < row["least_ms"] <= row["median_ms"]


@pytest.mark.parametrize("kind", KINDS)
def test_paths_come_true_as_far_as_they_should(kind: str) -> None:
    served = Served(2, KINDS[kind], 64)
    served.submit(0)
    for _ in range(len(BEST) + 2):
        served.step()
    steps = range(len(BEST) + 2)
    assert served.engine.totals.accepted == sum((step + i) % (len(BEST) + 1) for step in steps for i in range(2))


def test_a_step_that_is_not_what_it_should_be_is_an_error() -> None:
    served = Served(2, KINDS["greedy"], 64)
    served.submit(0)
    served.step()
    served.runner.logits = torch.zeros_like(served.runner.logits)
    with pytest.raises(ModelError, match="accepted"):
        served.step()
