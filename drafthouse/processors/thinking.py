"""A budget of reasoning: once it is spent, the closing tag is the only token that may be chosen.

Promises: the thought has at most its budget of tokens between the tags, however the tokens come. One that the model closes earlier, or
never opens, is left alone, and so is all that follows it.
"""

from collections.abc import Sequence

import numpy as np

from drafthouse.processors.edits import Edits
from drafthouse.processors.processor import PathProcessor
from drafthouse.sampling import ThinkingBudget

NOT_BEGUN, DONE = -1, -2
"""In place of the number of tokens that a thought has so far."""

OPENING_WITHIN = 4
"""An output that does not begin to think within so many tokens does not."""


class Thinking(PathProcessor):
    def __init__(self, budget: ThinkingBudget, output: Sequence[int]):
        self._budget = budget
        self._closing = np.array([budget.closing], dtype=np.int64)
        self._thought = [0 if budget.inside else NOT_BEGUN]  # after each move that may be taken back
        self._moves = 0
        self.commit(output)

    def advance(self, token: int) -> None:
        self._thought.append(self._after(self._thought[-1], token))
        self._moves += 1

    def rollback(self, count: int) -> None:
        if count:
            del self._thought[-count:]
            self._moves -= count

    def commit(self, tokens: Sequence[int]) -> None:
        super().commit(tokens)
        del self._thought[:-1]

    def edit_row(self, edits: Edits, row: int) -> None:
        if self._thought[-1] >= self._budget.tokens:
            edits.keep_only(np.array([row], dtype=np.int64), self._closing)

    def _after(self, thought: int, token: int) -> int:
        if thought == NOT_BEGUN:
            if token == self._budget.opening:
                return 0
            return NOT_BEGUN if self._moves + 1 < OPENING_WITHIN else DONE
        return DONE if thought == DONE or token == self._budget.closing else thought + 1
