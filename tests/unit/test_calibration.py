"""Edges that keep their word, and stay probabilities whatever is learned; kept over restarts, and nothing else taken in."""

import json
import logging
import math
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafter.calibration_store import SAVE_S, CalibrationStore
from drafthouse.config.cache_files import cache_folder
from drafthouse.policy.calibration import ANY_MARGIN, HALF_LIFE, MARGINS, Calibration, brier
from drafthouse.policy.edges import EXPECTED_CHILDREN, edges_of, prior_hazard

margins = st.lists(st.one_of(st.floats(0, 50), st.just(math.inf)), max_size=9)
temperatures = st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0])
labels = st.lists(st.tuples(margins, temperatures, st.integers(-1, 8)), max_size=30)


def taught(observed: list[tuple[list[float], float, int]]) -> Calibration:
    calibration = Calibration()
    for leads, temperature, hit in observed:
        calibration.observe(0, leads, temperature, hit if hit < len(leads) else -1)
    return calibration


@given(labels, margins, temperatures)
def test_edges_are_probabilities_that_sum_to_at_most_one(
    observed: list[tuple[list[float], float, int]], leads: list[float], temperature: float
) -> None:
    calibration = taught(observed)
    edges = calibration.edges(0, leads, temperature)
    assert len(edges) == len(leads)
    assert all(0.0 <= edge <= 1.0 for edge in edges)
    assert sum(edges) <= 1.0 + 1e-12
    for width in range(9):
        assert 0.0 <= calibration.expected_children(0, width, temperature) < 1.0


@given(margins, temperatures)
def test_before_any_label_the_edges_are_the_priors(leads: list[float], temperature: float) -> None:
    assert Calibration().edges(0, leads, temperature) == edges_of([prior_hazard(r, m, temperature) for r, m in enumerate(leads)])


def test_the_prior_rises_with_the_lead_and_falls_with_the_rank() -> None:
    assert prior_hazard(0, 0.1, 1.0) < prior_hazard(0, 1.0, 1.0) < prior_hazard(0, 1.0, 0.0) < prior_hazard(0, math.inf, 0.0) < 1.0
    assert prior_hazard(0, 0.5, 1.0) > prior_hazard(1, 0.5, 1.0) > prior_hazard(7, 0.5, 1.0) > 0.0
    assert edges_of([0.5, 0.5, 1.0, 0.5]) == [0.5, 0.25, 0.25, 0.0]


def test_edges_become_the_frequencies_whatever_the_prior_says() -> None:
    """A draft whose second child is accepted more often than its first, the less the larger its lead."""
    rng, calibration = random.Random(4), Calibration()

    def draw() -> tuple[list[float], int]:
        lead = rng.choice([0.1, 3.0])
        chances = [0.1, 0.6] if lead == 3.0 else [0.3, 0.4]
        return [lead, 1.0], rng.choices([0, 1, -1], [*chances, 1 - sum(chances)])[0]

    for _ in range(8000):
        leads, hit = draw()
        calibration.observe(0, leads, 1.0, hit)
    assert calibration.edges(0, [3.0, 1.0], 1.0)[0] == pytest.approx(0.1, abs=0.03)
    assert calibration.edges(0, [0.1, 1.0], 1.0)[0] == pytest.approx(0.3, abs=0.03)
    assert calibration.expected_children(0, 2, 1.0) == pytest.approx(0.7, abs=0.03)
    assert calibration.expected_children(0, 1, 1.0) == pytest.approx(0.2, abs=0.03)
    assert calibration.edges(0, [3.0, 1.0], 0.0) == Calibration().edges(0, [3.0, 1.0], 0.0), "nothing was learned of greedy requests"
    assert calibration.edges(1, [3.0, 1.0], 1.0) == Calibration().edges(1, [3.0, 1.0], 1.0), "nor of another source"
    score = calibration.score
    assert score.learned / score.labels < 0.9 * score.prior / score.labels


def test_a_sibling_is_judged_only_where_those_above_it_were_not_accepted() -> None:
    calibration = Calibration()
    for _ in range(5000):
        calibration.observe(0, [1.0, 1.0], 0.0, 0)
    assert calibration.edges(0, [1.0, 1.0], 0.0)[0] > 0.98
    assert {key for key, _, _ in calibration.cells()} == {(0, 0, 2, 0), (0, 0, ANY_MARGIN, 0)}, "nothing is known of the second"


def test_what_was_learned_fades_with_labels_of_its_own_kind_only() -> None:
    calibration = Calibration()
    for _ in range(3000):
        calibration.observe(0, [1.0], 0.0, 0)
    before = calibration.edges(0, [1.0], 0.0)
    for _ in range(3000):
        calibration.observe(0, [6.0], 0.0, 0)
        calibration.observe(0, [1.0], 1.0, 0)
    assert calibration.edges(0, [1.0], 0.0) == before
    for _ in range(int(HALF_LIFE)):
        calibration.observe(0, [1.0], 0.0, -1)
    (kept,) = calibration.edges(0, [1.0], 0.0)
    old = (1 - 0.5**1.5) / 2  # of the first 3000 labels, as they weigh after another half-life
    assert kept == pytest.approx(old / (old + 0.5), abs=0.02)


def test_margin_buckets_take_in_their_upper_bounds() -> None:
    calibration = Calibration()
    for margin in (0.0, *MARGINS, 100.0, math.inf):
        calibration.observe(0, [margin], 1.0, -1)
    buckets = {key[2]: count for key, count, _ in calibration.cells() if key[2] != ANY_MARGIN}
    assert set(buckets) == set(range(len(MARGINS) + 1))
    assert buckets[0] == pytest.approx(2, abs=0.01)
    assert buckets[len(MARGINS)] == pytest.approx(2, abs=0.01)


def test_brier_counts_all_siblings() -> None:
    assert brier([0.5, 0.2], 0) == pytest.approx(0.25 + 0.04)
    assert brier([0.5, 0.2], -1) == pytest.approx(0.25 + 0.04)
    assert brier([0.5, 0.2], 1) == pytest.approx(0.25 + 0.64)


def test_four_children_are_expected_to_bring_what_the_prior_says() -> None:
    assert Calibration().expected_children(0, 4, 1.0) == pytest.approx(EXPECTED_CHILDREN)


LEARNED = [([1.0, 0.3], 0.0, 0), ([1.0, 0.3], 1.0, 1), ([3.0, math.inf], 1.0, -1)]


def saved(folder: pathlib.Path) -> CalibrationStore:
    store = CalibrationStore("draft", folder)
    for leads, temperature, hit in LEARNED * 50:
        store.of("target").observe(0, leads, temperature, hit)
    store.save()
    return store


def test_what_was_learned_is_there_after_a_restart(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    store = saved(tmp_path / "new")
    again = CalibrationStore("draft", tmp_path / "new")
    assert again.of("target").cells() == store.of("target").cells() != []
    assert again.of("another target").cells() == []
    assert CalibrationStore("another draft", tmp_path / "new").of("target").cells() == []
    assert again.labels == 0, "it counts what was seen since the start"
    assert store.labels == 150
    assert not caplog.records
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda entry: entry | {"format": 99}, "another version"),
        (lambda entry: entry | {"draft": "other"}, "another version, draft or target"),
        (lambda entry: entry | {"target": "other"}, "another version, draft or target"),
        (lambda entry: entry | {"cells": [{"key": [0, 0, 0, 0], "labels": 1.0, "hits": 2.0}]}, "2.0 hits among 1.0 labels"),
        (lambda entry: entry | {"cells": [{"key": [0, 0, 0], "labels": 1.0, "hits": 1.0}]}, "cells.0.key"),
        (lambda entry: entry | {"cells": [{"key": [0, -1, 0, 0], "labels": 1.0, "hits": 1.0}]}, "cells.0.key.1"),
        (lambda entry: entry | {"cells": [{"key": [0, 0, 0, 0], "labels": -1.0, "hits": -2.0}]}, "labels"),
        (lambda entry: entry | {"cells": [{"key": [0, 0, 0, 0], "labels": math.inf, "hits": 0.0}]}, "labels"),
        (lambda entry: entry | {"more": 1}, "more"),
        (lambda entry: [], "object"),
    ],
)
def test_what_cannot_be_used_gives_one_warning_and_the_prior(
    damage: Callable[[dict[str, Any]], object], reason: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path).path("target")
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    assert_prior(tmp_path, path, reason, caplog)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_bytes_that_are_no_json_give_one_warning_and_the_prior(
    content: bytes, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path).path("target")
    path.write_bytes(content)
    assert_prior(tmp_path, path, "", caplog)


def assert_prior(folder: pathlib.Path, path: pathlib.Path, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    store = CalibrationStore("draft", folder)
    for _ in range(2):
        assert store.of("target").cells() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert reason in record.getMessage()
    store.of("target").observe(0, [1.0], 0.0, 0)
    store.save()
    assert CalibrationStore("draft", folder).of("target").cells() != [], "and it is written anew"


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    store = saved(tmp_path / "file" / "below")
    assert len(store.of("target").cells()) > 0
    assert "not kept" in caplog.text


def test_it_is_written_at_intervals_and_only_when_there_is_something_new(tmp_path: pathlib.Path) -> None:
    store = CalibrationStore("draft", tmp_path)
    calibration = store.of("target")
    for now in (5.0, 5.0 + 0.9 * SAVE_S):
        calibration.observe(0, [1.0], 0.0, 0)
        store.save_if_due(now)
        assert not store.path("target").exists()
    store.save_if_due(5.0 + SAVE_S)
    assert CalibrationStore("draft", tmp_path).of("target").cells() == calibration.cells()
    store.path("target").unlink()
    store.save_if_due(5.0 + 3 * SAVE_S)
    assert not store.path("target").exists(), "nothing was learned meanwhile"


def test_gauges_weigh_all_targets(tmp_path: pathlib.Path) -> None:
    store = CalibrationStore("draft", None)
    assert store.brier() is None
    for _ in range(300):
        store.of("a").observe(0, [0.1], 0.0, 0)
    store.of("b")
    store.save()
    assert store.brier().learned < store.brier().prior < 1.0
    assert not list(tmp_path.iterdir()), "without a folder nothing is written"


def test_the_cache_folder_follows_the_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path))
    assert cache_folder("calibration") == tmp_path / "calibration"
    monkeypatch.delenv("DRAFTHOUSE_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder("calibration") == pathlib.Path("/home/someone/.cache/drafthouse/calibration")
