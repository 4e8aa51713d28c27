"""How depth follows the load: samples of a run whose load is stepped, settle times, oscillation.

Promises: pure. Depth is nodes verified per sequence and step (a sequence's step commits one token
more than it accepts, which counts the steps of all sequences), averaged over `WINDOW_S` before each
sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_S = 0.6
REACHED = 0.8
"""Depth has followed when it has gone so much of the way to its new level."""


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
    """From one phase to the next: levels of depth, seconds until `REACHED` (NaN: never), and how often depth went back after that,
    past the middle between both levels."""

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


def changes(samples: Sequence[Sample], phases: Sequence[Phase]) -> list[Change]:
    """One for each phase but the first. A level is the median over the second half of a phase."""
    at, depth = np.array([s.at_s for s in samples]), depths(samples)
    levels = [_level(at, depth, phase) for phase in phases]
    result = []
    for (before, after), phase in zip(zip(levels, levels[1:], strict=False), phases[1:], strict=True):
        within = (at >= phase.start_s) & (at < phase.end_s) & ~np.isnan(depth)
        gone = (depth[within] - before) / (after - before) if after != before else np.ones(within.sum())
        reached = np.flatnonzero(gone >= REACHED)
        settle = float(at[within][reached[0]] - phase.start_s) if len(reached) else math.nan
        far = gone[reached[0] :] >= 0.5 if len(reached) else np.array([], dtype=bool)
        result.append(Change(phase.start_s, before, after, settle, int((far[:-1] & ~far[1:]).sum())))
    return result


def _level(at: np.ndarray, depth: np.ndarray, phase: Phase) -> float:
    half = (at >= (phase.start_s + phase.end_s) / 2) & (at < phase.end_s) & ~np.isnan(depth)
    return float(np.median(depth[half])) if half.any() else math.nan
