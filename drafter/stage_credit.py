"""What commits tell of drafts: a label for each ranking that was made where a token was committed, and who gets the credit.

Promises: a committed token that was drafted is the gain of one source, the first in order that had it; the draft model is last, since
it costs most.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.policy.growing_tree import GrowingTree, Ranking
from drafthouse.policy.stage_worth import CommitRate, StageWorth
from drafthouse.stages.build import MODEL
from drafthouse.stages.session_stages import SessionStages


@dataclass(frozen=True, slots=True)
class Label:
    """A committed token, at its absolute position, and the children ranked for it; `hit` is its rank among them, or -1."""

    position: int
    ranking: Ranking
    hit: int


def labels_of(growing: GrowingTree, base_len: int, tokens: Sequence[int], path: Sequence[int]) -> list[Label]:
    """Of tokens that follow the first `base_len`, as far as they lead along `path`, and of the first one beyond it."""
    return [
        Label(base_len + i, ranking, ranking.hit(token))
        for i, (token, by_source) in enumerate(zip(tokens, growing.rankings_along(tokens, path), strict=False))
        for ranking in by_source.values()
    ]


class StageCredit:
    """Of one session, which begins `now`."""

    def __init__(self, stages: SessionStages, now: float):
        self.model_worth, self.model_seconds = StageWorth(), 0.0  # charged since the last commit
        self._stages, self._rate, self._committed_at = stages, CommitRate(), now

    def judge(self, labels: Sequence[Label], end: int, count: int, now: float) -> None:
        """Tells each stage how many committed tokens it gained. A token before position `end` was drafted. `count` tokens were
        committed."""
        if not self._stages.sources:
            return
        order = [*self._stages.sources, MODEL]
        first: dict[int, int] = {}
        for label in labels:
            source = label.ranking.source
            if label.hit >= 0 and label.position < end and source in order:
                first[label.position] = min(first.get(label.position, len(order)), order.index(source))
        gains = {source: sum(each == rank for each in first.values()) for rank, source in enumerate(order)}
        self._rate.observe(count, now - self._committed_at)
        self._committed_at = now
        self._stages.judge(gains, self._rate.tokens_per_second)
        self.model_worth.observe(gains[MODEL], self.model_seconds, self._rate.tokens_per_second)
        self.model_seconds = 0.0
