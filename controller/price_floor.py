"""The price that all verifiers ask of drafts while drafters are what is short (docs/design.md 7).

Promises: pure; 0 while drafters keep up; never above what the drafter's time for one more node brings
elsewhere, nor so high that the typical verifier would give its sessions up; moves in logarithmic
steps, each with time to show before the next, and half as large after each turn, so a closed loop
settles. Designs weighed: docs/controller.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from controller.pool_rates import DrafterRates, Member, VerifierRates, finite, ratio
from drafthouse.wire.reports import DrafterReport, VerifierReport

BUSY, TARGET, SLACK = 0.95, 0.88, 0.8
"""Drafter utilisation above which the floor may rise, at which a fall aims, and below which it falls. A pass cannot be
interrupted, so drafters without any slack make the best node wait for the worst."""

LEAST = 0.005
"""Path confidence below which drafters grow nothing anyway: a lower floor is none."""

FIRST = 0.03
"""The first floor; few trees reach below it in the time that a step takes."""

LARGEST_STEP, SMALLEST_STEP = 1.0, 0.05
"""Of the floor's natural logarithm."""

STEADY_MOVES = 2
"""So many in one direction, and the step grows again: the load has changed."""

SETTLE_INTERVALS = 3.0
"""Heartbeats from one move to the next: in the first the last verifier hears of it, in the second drafters feel it throughout, and
by the end of the third the last one has told."""

WAITING = 0.05
"""Share of the verifiers' busy time between steps, from which they wait for drafters: all of it counts as waiting for drafts."""

BARE = 1.0
"""Nodes verified for each sequence of a step, below which verifiers go on without waiting for what they lack."""

BEST_EDGE_SHARE = 0.7
"""The floor stays below this share of the median best edge: under the share at which the verifiers' own gate opens again (0.8), or the
floor would close gates, empty the drafters, fall, and open them again."""

ASSUMED_BEST_EDGE = 0.7


@dataclass(frozen=True, slots=True)
class DraftSupply:
    """The drafter pool between its last reports: share of time in use, whether anybody lacks drafts, the median best edge (tokens).

    `worth`: tokens accepted per second of drafters' busy time, times what one more node makes a pass longer (seconds).
    """

    utilisation: float
    wanted: bool
    best_edge: float
    worth: float


def supply(verifiers: Sequence[Member[VerifierReport]], drafters: Sequence[Member[DrafterReport]]) -> DraftSupply | None:
    """From rates between the last two reports; None before a drafter has made two.

    Where each session has a drafter of its own nothing is shared, so no floor is wanted.
    """
    v, d = VerifierRates(verifiers), DrafterRates(drafters)
    utilisation = d.utilisation
    if utilisation is None:
        return None
    waits = (v.between_steps_share or 0.0) >= WAITING
    bare = v.sequence_steps > 0.0 and v.nodes_per_sequence < BARE
    best_edges = finite(r.best_edge for r in v.reports)
    slopes = finite(m.report.seconds_per_node for m in d.known)
    return DraftSupply(
        utilisation=utilisation,
        wanted=d.sessions > len(drafters) and (waits or bare or d.refused > 0.0),
        best_edge=median_low(best_edges) if best_edges else ASSUMED_BEST_EDGE,
        worth=(ratio(v.accepted, d.of(lambda r: r.totals.busy_seconds)) or 0.0) * median_low(slopes or [0.0]),
    )


class PriceFloor:
    """`floor` in tokens per node."""

    def __init__(self) -> None:
        self.floor = 0.0
        self._resumed = False
        self._step = LARGEST_STEP
        self._direction = 0
        self._moves = 0  # in this direction
        self._due = -math.inf

    def resume(self, floor: float) -> None:
        """What the first verifier to report was told by a controller before this one; later ones change nothing."""
        if not self._resumed:
            self._resumed, self.floor = True, floor

    def due(self, now: float) -> bool:
        return now >= self._due

    def move(self, supply: DraftSupply | None, now: float, interval_s: float) -> None:
        """Once `due`. `interval_s` lies between two reports of one replica. Of what is not known nothing follows."""
        self._due = now + interval_s
        if supply is None:
            return
        highest = min(BEST_EDGE_SHARE * supply.best_edge, supply.worth)
        highest = highest if highest >= LEAST else 0.0
        if self.floor > highest:
            self.floor = highest
        elif supply.utilisation > BUSY and supply.wanted and self.floor < highest:
            self._turn(1)
            self.floor = min(highest, self.floor * math.exp(self._step)) if self.floor else min(highest, FIRST)
        elif supply.utilisation < SLACK and self.floor > 0.0:
            self._turn(-1)
            # Where demand falls as 1 / floor, this lands on the target.
            lower = self.floor * math.exp(-min(self._step, math.log(TARGET / max(supply.utilisation, 1e-3))))
            self.floor = lower if lower >= LEAST else 0.0
        else:
            return
        self._due = now + SETTLE_INTERVALS * interval_s

    def _turn(self, direction: int) -> None:
        """Before a move: half the step after a turn; twice after STEADY_MOVES without one."""
        if direction == -self._direction:
            self._step = max(SMALLEST_STEP, self._step / 2)
            self._moves = 0
        self._direction = direction
        self._moves += 1
        if self._moves > STEADY_MOVES:
            self._step = min(LARGEST_STEP, 2 * self._step)
