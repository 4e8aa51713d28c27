"""The figures of `bench calibration`."""

import pathlib
import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibration.bench import CalibrationOptions, Position, auc, judge, reliability, run_calibration
from benchmarks.calibration.plot import check_plot, plot_reliability
from drafthouse.config.serving import TreeConfig
from drafthouse.errors import ConfigError


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20))
def test_auc_is_the_share_of_pairs_in_the_right_order(scored: list[tuple[int, bool]]) -> None:
    hits = [float(score) for score, hit in scored if hit]
    misses = [float(score) for score, hit in scored if not hit]
    got = auc([float(score) for score, _ in scored], np.array([hit for _, hit in scored], dtype=bool))
    if not hits or not misses:
        assert got is None
        return
    pairs = [1.0 if h > m else 0.5 if h == m else 0.0 for h, m in product(hits, misses)]
    assert got == pytest.approx(sum(pairs) / len(pairs))


def test_reliability_of_edges_known_beforehand() -> None:
    """Two children of 0.75 and 0.15; the first is accepted at 2 positions of 4, the second at 1."""
    positions = [Position(1, (1.0, 1.0), hit, 0.5) for hit in (0, 0, 1, -1)]
    figures = reliability(lambda *_: [0.75, 0.15], positions, 0.0)
    assert figures["bins"] == [
        {"predicted": pytest.approx(0.15), "measured": 0.25, "count": 4},
        {"predicted": pytest.approx(0.75), "measured": 0.5, "count": 4},
    ]
    assert figures["ece"] == pytest.approx((0.1 + 0.25) / 2)
    assert figures["brier"] == pytest.approx((2 * (0.25**2 + 0.15**2) + (0.75**2 + 0.85**2) + (0.75**2 + 0.15**2)) / 4)


def drawn(count: int) -> list[Position]:
    """A draft of another kind than the prior's: the first child is accepted 1 time in 10, more often without a lead."""
    rng = random.Random(2)
    positions = []
    for i in range(count):
        lead = rng.choice([0.1, 5.0])
        hit = 0 if rng.random() < (0.18 if lead == 0.1 else 0.02) else -1
        positions.append(Position(i % 10, (lead, 0.3), hit, 0.9 if hit == 0 else 0.1))
    return positions


def test_one_half_teaches_and_the_other_judges(tmp_path: pathlib.Path) -> None:
    report = judge(drawn(4000), 1.0)
    assert (report["taught"], report["judged"]) == (2000, 2000)
    assert report["first_accepted"] == pytest.approx(0.1, abs=0.02)
    assert report["auc_probability"] == 1.0
    assert report["auc_margin"] < 0.4, "here a lead speaks against acceptance"
    assert report["auc_margin_by_rank"][1] is None
    assert report["prior"]["ece"] > 0.2 > 0.03 > report["calibrated"]["ece"]
    assert report["prior"]["brier"] > 2 * report["calibrated"]["brier"]
    plot_reliability(tmp_path / "plot.png", {"greedy": report, "sampled": report}, ["greedy", "sampled"])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_errors_name_the_option(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="--prompts 1: one half teaches"):
        run_calibration(CalibrationOptions("demo:target", "demo:draft", 1, 8, 1, None))
    with pytest.raises(ConfigError, match="--prompts 100000: there are"):
        run_calibration(CalibrationOptions("demo:target", "demo:draft", 100000, 8, 1, None))
    with pytest.raises(ConfigError, match="--plot"):
        check_plot(tmp_path / "missing" / "plot.png")
    check_plot(tmp_path / "plot.png")
    check_plot(None)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_demo_pair_gives_figures_that_do_not_depend_on_batches(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.calibration.bench.BATCH", batch)
    report = run_calibration(CalibrationOptions("demo:target", "demo:draft", 4, 12, 1, None))
    assert report["settings"]["prompt_tokens"] == 96
    for name in ("greedy", "sampled"):
        figures = report[name]
        assert 12 <= figures["judged"] <= 24
        assert 0.2 < figures["any_accepted"] <= 1.0
        assert sum(b["count"] for b in figures["calibrated"]["bins"]) == TreeConfig().width * figures["judged"]
