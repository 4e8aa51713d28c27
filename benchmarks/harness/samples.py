"""What was measured, and the numbers made of it: rates, ratios with intervals, tokens per step.

A ratio of two contestants is the ratio of their rates over all prompts and rounds: total tokens by
total seconds. It equals the ratio of the rates in the table, and long generations weigh as much as
they last. Its 95 % interval is a percentile bootstrap over prompts (Efron and Tibshirani 1993,
chapter 13): prompts are drawn with replacement, all runs of a prompt together, since contestants
meet the same text there. The median of the prompts' own ratios stands beside it: where the two
differ much, some other work disturbed the run.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One generation: `seconds` from the prompt to the last token, the prompt's own pass included."""

    contestant: str
    sampling: str
    prompt: int
    tokens: int
    seconds: float
    target_passes: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster; `low` and `high` bound the 95 % interval."""

    value: float
    low: float
    high: float
    median_of_prompts: float


def pick(samples: Iterable[Sample], contestant: str, sampling: str) -> list[Sample]:
    return [s for s in samples if s.contestant == contestant and s.sampling == sampling]


def tokens_per_second(samples: Sequence[Sample]) -> float:
    return sum(s.tokens for s in samples) / sum(s.seconds for s in samples)


def tokens_per_step(samples: Sequence[Sample]) -> float:
    """Committed tokens by passes of the target; the pass over the prompt is one of them."""
    return sum(s.tokens for s in samples) / sum(s.target_passes for s in samples)


def ratio(ours: Sequence[Sample], base: Sequence[Sample]) -> Ratio:
    """How many times the rate of `base` the rate of `ours` is. Both hold the same prompts."""
    a, b = _sums(ours), _sums(base)
    prompts = sorted(a.keys() & b.keys())
    rows = np.array([[*a[p], *b[p]] for p in prompts])  # tokens and seconds of ours, then of base
    drawn = np.random.default_rng(_SEED).integers(len(rows), size=(RESAMPLES, len(rows)))
    resampled = _rate_ratio(rows[drawn].sum(1))
    low, high = np.percentile(resampled, [2.5, 97.5])
    each = _rate_ratio(rows)
    return Ratio(float(_rate_ratio(rows.sum(0, keepdims=True))[0]), float(low), float(high), statistics.median(map(float, each)))


def _sums(samples: Sequence[Sample]) -> dict[int, tuple[float, float]]:
    """Tokens and seconds by prompt."""
    sums: dict[int, tuple[float, float]] = {}
    for s in samples:
        tokens, seconds = sums.get(s.prompt, (0.0, 0.0))
        sums[s.prompt] = (tokens + s.tokens, seconds + s.seconds)
    return sums


def _rate_ratio(rows: np.ndarray) -> np.ndarray:
    """Of `[..., 4]`: tokens and seconds of one, tokens and seconds of the other."""
    return (rows[..., 0] / rows[..., 1]) / (rows[..., 2] / rows[..., 3])
