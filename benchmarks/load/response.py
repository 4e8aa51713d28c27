"""How depth follows the load: samples of a run whose load is stepped, settle times, oscillation.

Promises: pure. Depth is nodes verified per sequence and step (a sequence's step commits one token
more than it accepts, which counts the steps of all sequences), averaged over `WINDOW_S` before each
sample. With few sequences it also follows the text, which is now easy to draft and now not: so it
must hold a new level for `HOLD_S`, and only what lasts `STEADY_S` counts as going back. The price
knows nothing of the text; both are judged alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_S = 0.6
HOLD_S = 1.0
STEADY_S = 2.0
REACHED = 0.8
"""A signal has followed when it has gone so much of the way to its new level."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`/v1/cluster` at `at_s`: gauges of the moment, totals of the verifiers so far."""

    at_s: float
    running: float
    price: float
    verified: float
    accepted: float
    committed: float


@dataclass(frozen=True, slots=True)
class Phase:
    """`in_flight` requests from `start_s` to `end_s`."""

    in_flight: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """From one phase to the next: levels of the signal, seconds until it has followed (NaN: never), and how often it went back
    after that, past the middle between both levels."""

    at_s: float
    before: float
    after: float
    settle_s: float
    returns: int


def depths(samples: Sequence[Sample]) -> np.ndarray:
    """Depth at each sample; NaN where no sequence stepped within the window."""
    result = np.full(len(samples), np.nan)
    first = 0
    for i, sample in enumerate(samples):
        while samples[first].at_s < sample.at_s - WINDOW_S:
            first += 1
        base = samples[first]
        stepped = (sample.committed - sample.accepted) - (base.committed - base.accepted)
        if stepped > 0:
            result[i] = (sample.verified - base.verified) / stepped
    return result


def changes(at_s: Sequence[float], signal: Sequence[float], phases: Sequence[Phase]) -> list[Change]:
    """One for each phase but the first. A level is the mean over the second half of a phase; NaNs in `signal` are left out."""
    known = ~np.isnan(signal)
    at, values = np.asarray(at_s)[known], np.asarray(signal)[known]
    levels = [_mean(at, values, (phase.start_s + phase.end_s) / 2, phase.end_s) for phase in phases]
    return [
        _change(at, values, phase, before, after)
        for phase, before, after in zip(phases[1:], levels, levels[1:], strict=False)
    ]  # fmt: skip


def _change(at: np.ndarray, values: np.ndarray, phase: Phase, before: float, after: float) -> Change:
    within = at[(at >= phase.start_s) & (at < phase.end_s)]

    def gone(t: float, window_s: float) -> float:
        """How much of the way, from `t` on for the window or to the phase's end."""
        return (_mean(at, values, t, min(t + window_s, phase.end_s)) - before) / (after - before)

    if before == after or math.isnan(before) or math.isnan(after):
        return Change(phase.start_s, before, after, math.nan, 0)
    followed = next((t for t in within if gone(t, HOLD_S) >= REACHED), math.nan)
    far = [gone(t, STEADY_S) >= 0.5 for t in within if followed <= t <= phase.end_s - STEADY_S]
    returns = sum(now and not then for now, then in zip(far, far[1:], strict=False))
    return Change(phase.start_s, before, after, float(followed - phase.start_s), returns)


def _mean(at: np.ndarray, values: np.ndarray, start_s: float, end_s: float) -> float:
    inside = values[(at >= start_s) & (at < end_s)]
    return float(inside.mean()) if len(inside) else math.nan
