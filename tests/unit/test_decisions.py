"""`drafthouse bench decisions`: every case is there, and what it times is a real selection."""

import json
import pathlib

import numpy as np
from typer.testing import CliRunner

from benchmarks.decisions import CASES, curves, forest
from deployments.cli.main import build_cli


def test_every_case_is_timed_and_nodes_are_selected(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "decisions.json"
    result = CliRunner().invoke(build_cli(), ["bench", "decisions", "--repetitions", "10", "--json", str(file)])
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text(encoding="utf-8"))["decisions"]
    assert [(r["curve"], r["sequences"], r["nodes"]) for r in rows] == [(c, *case) for c in curves() for case in CASES]
    for row in rows:
        assert 0 < row["selected"] < row["sequences"] * row["nodes"], "a case that takes all or nothing decides nothing"
        for call in ("select_us", "price_us"):
            assert 0.0 < row[call]["median"] <= row[call]["p99"]


def test_the_forest_has_confidences_of_real_trees() -> None:
    confidences = forest(64, 32).reshape(64, 32)
    assert ((confidences > 0.0) & (confidences < 1.0)).all()
    assert np.array_equal(confidences, forest(64, 32).reshape(64, 32)), "the same trees at each run"
    assert confidences[:, -8:].mean() < 0.6 * confidences[:, 0].mean(), "products of edges fall with depth"
