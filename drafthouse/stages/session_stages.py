"""The stages without a model of one session: asked where it may pay, merged into one tree, dropped when they fail.

Promises: a stage that raises or that its guard stops is out for this session alone, logged and counted; one
that does not pay rests and is tried again (`drafthouse.policy.stage_worth`); the session goes on in any case.
Growth is best-first as the draft's own: a stage is asked below the nodes of highest path confidence, whoever drafted them.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TypeVar

from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree, Ranking, TreeLimits
from drafthouse.policy.growth import Asked
from drafthouse.policy.stage_worth import StageWorth
from drafthouse.stages.build import StageMaker
from drafthouse.stages.stage import SessionFacts, Stage
from drafthouse.token_tree import ROOT

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class StageTotals:
    """Of all sessions: nodes that stages without a model added, seconds that they took, how many were dropped for a fault, and rests;
    and the nodes by source."""

    stage_nodes: int = 0
    stage_seconds: float = 0.0
    stage_faults: int = 0
    stage_rests: int = 0
    by_source: Counter[int] = field(default_factory=Counter)

    def numbers(self) -> dict[str, float]:
        """Without `by_source`."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self) if f.name != "by_source"}


class _Running:
    """One stage of the session."""

    def __init__(self, maker: StageMaker, stage: Stage):
        self.maker, self.stage = maker, stage
        self.worth = StageWorth()
        self.seconds = 0.0  # since the last commit


class SessionStages:
    def __init__(
        self,
        makers: Sequence[StageMaker],
        facts: SessionFacts,
        calibration: Calibration,
        width: int,
        clock: Callable[[], float],
        totals: StageTotals,
    ):
        self.calibration, self.width, self.temperature = calibration, width, facts.sampling.temperature
        self._clock, self._totals = clock, totals
        self._running: list[_Running] = []
        for maker in makers:
            made = self._guarded(maker, partial(maker.make, facts))
            if made is not None:
                self._running.append(_Running(maker, made))

    @property
    def working(self) -> list[str]:
        """Names of those that neither failed nor rest."""
        return [each.maker.name for each in self._running if each.worth.working]

    def _guarded(self, maker: StageMaker, call: Callable[[], T]) -> T | None:
        """What the call returns, or None when the stage fails; an own stage may raise anything."""
        try:
            return call()
        except Exception:
            logger.exception("stage %s is dropped for this session", maker.name)
            self._totals.stage_faults += 1
            self._running = [each for each in self._running if each.maker is not maker]
            return None

    def follow(self, tokens: Sequence[int]) -> None:
        """Committed tokens; the prompt first. Stages that rest follow too, or they could not be tried again."""
        for each in list(self._running):
            started = self._clock()
            self._guarded(each.maker, partial(each.stage.follow, tokens))
            self._spent(each, started)

    def _spent(self, each: _Running, started: float) -> None:
        seconds = self._clock() - started
        each.seconds += seconds
        self._totals.stage_seconds += seconds

    def grow(self, growing: GrowingTree, asked: Asked, limits: TreeLimits) -> int:
        """Lets each working stage add its nodes, in the order of the configuration; returns how many are new."""
        before = len(growing)
        for each in list(self._running):
            if each.worth.working:
                started, first = self._clock(), len(growing)
                self._guarded(each.maker, partial(self._grow_one, each, growing, asked, limits))
                self._spent(each, started)
                self._totals.by_source[each.maker.source] += len(growing) - first
        self._totals.stage_nodes += len(growing) - before
        return len(growing) - before

    def _grow_one(self, each: _Running, growing: GrowingTree, asked: Asked, limits: TreeLimits) -> None:
        source, left = each.maker.source, each.maker.nodes
        expected = self.calibration.expected_children(source, self.width, self.temperature)

        def open_from(first: int) -> list[tuple[float, int]]:
            return [(-confidence, node) for confidence, node in growing.unranked(source, first, expected, asked, limits)]

        heap = open_from(ROOT)
        heapq.heapify(heap)
        while heap and left > 0:
            _, node = heapq.heappop(heap)
            tokens, margins = each.stage.children(growing.tree.path(node), self.width)
            first = len(growing)
            edges = self.calibration.edges(source, margins, self.temperature)
            room = TreeLimits(min(limits.nodes, first + left), limits.depth)
            left -= max(1, growing.add_children(node, Ranking(source, tokens, margins, edges), asked, room))
            for candidate in open_from(first):
                heapq.heappush(heap, candidate)

    def judge(self, gains: dict[int, int], tokens_per_second: float) -> None:
        """After a commit: tokens of it by the source that had them first."""
        for each in self._running:
            was = each.worth.working
            each.worth.observe(gains.get(each.maker.source, 0), each.seconds, tokens_per_second)
            self._totals.stage_rests += was and not each.worth.working
            each.seconds = 0.0

    @property
    def sources(self) -> list[int]:
        """Of the stages that have not failed, in order."""
        return [each.maker.source for each in self._running]

    def close(self) -> None:
        for each in list(self._running):
            self._guarded(each.maker, each.stage.close)
        self._running = []
