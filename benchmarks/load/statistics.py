"""Means, percentiles and ratios of paired measurements, with bootstrap intervals.

Policies meet the same trace, so requests are paired: a resample draws requests, and each policy's
own measurement of them. Requests of one block share its queue, so neighbours are alike; whole runs
of neighbours are drawn, wrapping at the block's end (circular block bootstrap, Politis and Romano
1992), about n^(1/3) long (Hall, Horowitz and Jing 1995). Intervals are 95 %, by percentiles.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """`low` and `high` bound the 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def drawn(sizes: Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """Indices `[resamples, sum(sizes)]` into the requests of all blocks one after the other; each block gives as many as it has."""
    rng = np.random.default_rng(_SEED)
    columns, first = [], 0
    for size in sizes:
        run = max(1, round(size ** (1 / 3)))
        runs = -(-size // run)
        starts = rng.integers(size, size=(resamples, runs, 1))
        indices = (starts + np.arange(run)) % size
        columns.append(first + indices.reshape(resamples, -1)[:, :size])
        first += size
    return np.concatenate(columns, axis=1)


def estimate(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def mean(values: np.ndarray, draws: np.ndarray) -> Estimate:
    return estimate(values.mean(), values[draws].mean(axis=1))


def p99(values: np.ndarray, draws: np.ndarray) -> Estimate:
    """Interpolated; of fewer than 100 values it is close to the largest, and its interval ends there."""
    return estimate(np.percentile(values, 99), np.percentile(values[draws], 99, axis=1))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two paired means at one place: the ratio itself and its resamples, so that ratios can be pooled."""

    value: float
    resampled: np.ndarray

    @property
    def estimate(self) -> Estimate:
        return estimate(self.value, self.resampled)


def ratio(ours: np.ndarray, base: np.ndarray, sizes: Sequence[int]) -> Ratio:
    """Mean of `ours` over mean of `base`; both hold the same requests, in blocks of `sizes`."""
    assert len(ours) == len(base) == sum(sizes)
    draws = drawn(sizes)
    return Ratio(float(ours.mean() / base.mean()), ours[draws].mean(axis=1) / base[draws].mean(axis=1))


def pooled(ratios: Sequence[Ratio]) -> Estimate:
    """The geometric mean: each place counts alike, whatever its latencies; resamples of places are independent."""
    rng = np.random.default_rng(_SEED)
    shuffled = [np.log(rng.permutation(r.resampled)) for r in ratios]
    return estimate(np.exp(np.mean([np.log(r.value) for r in ratios])), np.exp(np.mean(shuffled, axis=0)))
