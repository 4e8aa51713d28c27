"""The trigram stage: a Katz-backoff table of the draft's own output, ranked with the target's noise.

Promises: at a temperature above 0 scores are log-probability over temperature plus the noise that the
target adds, after the same filters, so that ranks agree with the target's choice as the draft's do. Where
the draft ranks without noise, so does this stage.
"""

from collections.abc import Sequence

import numpy as np

from drafthouse.sampling import SamplingParams
from drafthouse.stages.stage import Children, SessionFacts, Stage
from drafthouse.stages.token_noise import token_noise
from drafthouse.stages.trigram_table import TrigramTable, descending


class TrigramStage(Stage):
    def __init__(self, facts: SessionFacts, table: TrigramTable, shared_noise: bool = True):
        super().__init__(facts)
        self._table, self._shared_noise = table, shared_noise
        self._last: list[int] = []
        self._length = 0
        self._noise: dict[int, np.ndarray] = {}  # by position; the nodes of one depth share theirs

    def follow(self, tokens: Sequence[int]) -> None:
        self._last = [*self._last, *tokens[-2:]][-2:]
        self._length += len(tokens)
        self._noise = {position: noise for position, noise in self._noise.items() if position >= self._length}

    def children(self, path: Sequence[int], width: int) -> Children:
        sampling, context = self.facts.sampling, [*self._last, *path[-2:]]
        left, scores = self._table.best(context, width + 1 if sampling.greedy else sampling.top_k)
        if not sampling.greedy:
            scores = scores * np.float32(1.0 / sampling.temperature)
            if sampling.filters:
                left, scores = _filtered(left, scores, sampling)
            if self._shared_noise:
                scores = scores + self._noise_at(self._length + len(path))[left]
        best = descending(scores, width + 1)
        values = scores[best].astype(np.float64)
        leads = [*(values[:-1] - values[1:]).tolist(), *([float("inf")] if len(best) <= width else [])]
        return Children(self._table.tokens[left[best[:width]]].tolist(), leads)

    def _noise_at(self, position: int) -> np.ndarray:
        if position not in self._noise:
            self._noise[position] = token_noise(self.facts.seed, position, self._table.tokens)
        return self._noise[position]


def _filtered(left: np.ndarray, scores: np.ndarray, sampling: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """Indices and scores of what top-p and min-p leave of the top-k, as `drafthouse.choose` applies them."""
    order = descending(scores, len(scores))
    shares = np.exp(scores[order] - scores[order[0]])
    shares /= shares.sum()
    keep = (np.cumsum(shares) - shares < sampling.top_p) | (sampling.top_p >= 1.0)
    keep &= shares >= sampling.min_p * shares[0]
    keep[0] = True
    return left[order[keep]], scores[order[keep]]
