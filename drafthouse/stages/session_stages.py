"""The stages without a model of one session: asked where it may pay, merged into one tree.

Promises: whatever a stage does, the session goes on (`drafthouse.stages.running_stage`). Growth is best-first as
the draft's own: a stage is asked below the nodes of highest path confidence, whoever drafted them.
"""

import heapq
from collections.abc import Callable, Sequence
from functools import partial

from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree, Ranking, TreeLimits
from drafthouse.policy.growth import GrowthThreshold
from drafthouse.stages.build import FORCED, StageMaker
from drafthouse.stages.running_stage import Ask, RunningStage
from drafthouse.stages.stage import Children, SessionFacts
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.token_tree import ROOT


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
        self._totals, self._allowed = totals, frozenset(facts.sampling.allowed_token_ids)
        self._running = [RunningStage(maker, facts, clock, totals) for maker in makers]

    @property
    def working(self) -> list[str]:
        """Names of those that neither failed nor rest."""
        return [each.maker.name for each in self._running if each.working]

    def follow(self, tokens: Sequence[int]) -> None:
        """Committed tokens; the prompt first."""
        for each in self._running:
            each.follow(tokens)

    def grow(self, growing: GrowingTree, threshold: GrowthThreshold, limits: TreeLimits) -> int:
        """Lets each working stage add its nodes, in the order of the configuration; returns how many are new."""
        before = len(growing)
        for each in self._running:
            first = len(growing)
            each.grow(partial(self._grow_one, each.maker, growing, threshold, limits))
            self._totals.by_source[each.maker.source] += len(growing) - first
        self._totals.stage_nodes += len(growing) - before
        return len(growing) - before

    def _grow_one(self, maker: StageMaker, growing: GrowingTree, threshold: GrowthThreshold, limits: TreeLimits, ask: Ask) -> None:
        source, left = maker.source, maker.nodes
        expected = 1.0 if maker.certain else self.calibration.expected_children(source, self.width, self.temperature)

        def open_from(first: int) -> list[tuple[float, int]]:
            return [(-confidence, node) for confidence, node in growing.unranked(source, first, expected, threshold, limits)]

        heap = open_from(ROOT)
        heapq.heapify(heap)
        while heap and left > 0:
            _, node = heapq.heappop(heap)
            if not maker.certain and (forced := growing.rankings.get(node, {}).get(FORCED)) is not None and forced.tokens:
                continue  # no other token can come there
            tokens, margins = self._choosable(ask(growing.tree.path(node), self.width))
            first = len(growing)
            edges = [1.0] * len(tokens) if maker.certain else self.calibration.edges(source, margins, self.temperature)
            room = TreeLimits(min(limits.nodes, first + left), limits.depth)
            left -= max(1, growing.add_children(node, Ranking(source, tokens, margins, edges), threshold, room))
            for candidate in open_from(first):
                heapq.heappush(heap, candidate)

    def _choosable(self, children: Children) -> Children:
        """Without tokens that the request does not allow anywhere."""
        if not self._allowed:
            return children
        kept = [(token, margin) for token, margin in zip(*children, strict=True) if token in self._allowed]
        return Children([token for token, _ in kept], [margin for _, margin in kept])

    def judge(self, gains: dict[int, int], tokens_per_second: float) -> None:
        """After a commit: tokens of it by the source that had them first."""
        for each in self._running:
            each.judge(gains.get(each.maker.source, 0), tokens_per_second)

    @property
    def sources(self) -> list[int]:
        """Of the stages that have not failed, in order."""
        return [each.maker.source for each in self._running if each.present]

    def close(self, finished: bool) -> None:
        for each in self._running:
            each.close(finished)
        self._running = []
