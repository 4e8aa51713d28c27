"""Stages in the verifier's own process: no round trip, and what is left when no drafter is.

Promises: nodes from here are verified as any others, by what they promise; a stage that fails is dropped for its
sequence alone. Nothing here is waited for, sent anywhere or counted for or against a drafter.
"""

from collections.abc import Callable, Sequence

from drafthouse.config.serving import TreeConfig
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree, TreeLimits
from drafthouse.policy.growth import GrowthThreshold
from drafthouse.policy.stage_worth import CommitRate
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.stages.build import StageMaker, forced_maker, prediction_maker
from drafthouse.stages.session_stages import SessionStages
from drafthouse.stages.stage import SessionFacts
from drafthouse.stages.stage_sandbox import TURN_S
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.wire.generation_messages import GenerateRequest

STEP_S = TURN_S
"""Once the stages of a step's sequences have taken so long together, those of the others are not asked in it: all of them wait."""


class LocalDraft:
    """One sequence's tree below its last token."""

    def __init__(self, stages: SessionStages, calibration: Calibration, tree: TreeConfig, request: GenerateRequest, now: float):
        self.growing = GrowingTree()
        self._stages, self._calibration, self._temperature = stages, calibration, request.sampling.temperature
        self._tree, self._rate, self._committed_at = tree, CommitRate(), now
        stages.follow(request.prompt)
        if request.delivered:
            stages.follow(request.delivered)

    def grow(self, price: float, max_draft_depth: int) -> int:
        """Adds the nodes that are worth `price`, at most `max_draft_depth` deep; returns how many are new."""
        depth = min(self._tree.max_depth, max_draft_depth)
        if depth <= 0:
            return 0
        return self._stages.grow(self.growing, GrowthThreshold.at(price, ahead=False), TreeLimits(self._tree.max_nodes, depth))

    def commit(self, tokens: Sequence[int], now: float) -> None:
        """Learns from what was committed, and re-roots. Where no stage was asked, as nodes are dear, there is nothing to either."""
        gains = self._learn(tokens) if self.growing.rankings else {}
        self._rate.observe(len(tokens), now - self._committed_at)
        self._committed_at = now
        self._stages.judge(gains, self._rate.tokens_per_second)
        self._stages.follow(tokens)

    def _learn(self, tokens: Sequence[int]) -> dict[int, int]:
        """Returns the tokens that each stage had first, by source."""
        path = self.growing.follow(tokens)
        gains = dict.fromkeys(self._stages.sources, 0)
        for i, (token, rankings) in enumerate(zip(tokens, self.growing.rankings_along(tokens, path), strict=False)):
            hits = {source: ranking.hit(token) for source, ranking in rankings.items() if ranking.tokens}
            for source, hit in hits.items():
                self._calibration.observe(source, rankings[source].margins, self._temperature, hit)
            first = next((source for source in gains if hits.get(source, -1) >= 0), None)
            if first is not None and i < len(path):
                gains[first] += 1
        self.growing.reroot(tokens, path)
        return gains

    def close(self, finished: bool) -> None:
        self._stages.close(finished)


class LocalDrafts:
    """Makes them; what is learned is shared by all sequences of the verifier."""

    def __init__(self, makers: Sequence[StageMaker], tree: TreeConfig, vocab_size: int, clock: Callable[[], float]):
        self.makers, self.tree, self.vocab_size, self.clock = makers, tree, vocab_size, clock
        self._prediction = prediction_maker()
        self.calibration, self.totals = Calibration(), StageTotals()

    def open(self, request: GenerateRequest, grammar: GrammarProcessor | None = None) -> LocalDraft | None:
        """None where no stage is placed here and the request brings none, or it does not let goodput decide. Tokens are committed to
        `grammar` before they are to this."""
        makers = [self._prediction, *self.makers] if request.prediction else list(self.makers)
        makers = makers if grammar is None else [forced_maker(grammar.chain), *makers]
        if not makers or request.speculation.mode != "auto":
            return None
        facts = SessionFacts(request.sampling, request.seed, self.vocab_size, request.cache_key, request.prediction)
        stages = SessionStages(makers, facts, self.calibration, self.tree.width, self.clock, self.totals)
        return LocalDraft(stages, self.calibration, self.tree, request, self.clock())
