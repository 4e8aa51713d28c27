"""Bootstrap of paired measurements, against what is known of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.statistics import drawn, mean, p99, pooled, ratio


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_each_resample_takes_as_many_from_a_block_as_it_has(sizes: list[int]) -> None:
    draws = drawn(sizes, resamples=20)
    assert draws.shape == (20, sum(sizes))
    edges = np.cumsum([0, *sizes])
    for block, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        taken = draws[:, first:last]
        assert ((taken >= first) & (taken < last)).all(), block


def test_every_request_is_drawn_equally_often() -> None:
    counts = np.bincount(drawn([30], resamples=20_000).ravel(), minlength=30)
    assert counts.min() > 0.95 * 20_000
    assert counts.max() < 1.05 * 20_000


def test_neighbours_are_drawn_together() -> None:
    draws = drawn([64])  # runs of 4
    assert ((np.diff(draws, axis=1) % 64) == 1).mean() > 0.7


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    draws = drawn([200])
    covered = 0
    for _ in range(200):
        e = mean(rng.exponential(1.0, 200), draws)
        covered += e.low <= 1.0 <= e.high
    assert 0.88 <= covered / 200 <= 0.99


def test_queues_widen_the_interval() -> None:
    """Neighbours that wait behind each other are no independent evidence: an interval that took them so would be too narrow."""
    noise = np.random.default_rng(2).normal(size=1030)
    alike = np.convolve(noise, np.ones(30) / 30, mode="valid")
    shuffled = np.random.default_rng(3).permutation(alike)
    draws = drawn([len(alike)])
    wide, narrow = mean(alike, draws), mean(shuffled, draws)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_pairing_takes_out_what_both_share() -> None:
    shared = np.random.default_rng(4).exponential(1.0, 100)
    r = ratio(1.5 * shared, shared, [50, 50]).estimate
    assert (r.value, r.low, r.high) == pytest.approx((1.5, 1.5, 1.5))


def test_p99() -> None:
    assert p99(np.arange(101.0), drawn([101])).value == pytest.approx(99.0)


def test_pooling_is_the_geometric_mean_and_narrows_the_interval() -> None:
    rng = np.random.default_rng(5)
    base = rng.exponential(1.0, (8, 60))
    noisy = [ratio(b * rng.uniform(0.5, 1.5, 60) * scale, b, [60]) for b, scale in zip(base, [0.5, 2.0] * 4, strict=True)]
    together = pooled(noisy)
    assert together.value == pytest.approx(np.exp(np.mean([np.log(r.value) for r in noisy])))
    assert np.log(together.high / together.low) < 0.6 * np.mean([np.log(r.estimate.high / r.estimate.low) for r in noisy])
