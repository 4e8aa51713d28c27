"""What a grammar forces: tokens that are known before any model runs, below every node where it leaves one text.

Promises: as long as a grammar's processor says the same in verifier and drafter, none of these tokens is ever refused.
"""

from collections.abc import Callable, Sequence

from drafthouse.processors.processor import Path
from drafthouse.stages.stage import NOTHING, Children, SessionFacts, Stage

CHAIN = 32
"""Tokens that are looked up at once. The first costs what the library takes to read the whole forced text, each other one microseconds."""

Chain = Callable[[Path, int], list[int]]
"""`GrammarProcessor.chain`, of one that has the committed tokens before its stage has."""


class ForcedStage(Stage):
    def __init__(self, facts: SessionFacts, chain: Chain):
        super().__init__(facts)
        self._chain = chain
        self._known: dict[tuple[int, ...], int | None] = {}  # by path; what a chain ends with forces nothing

    def follow(self, tokens: Sequence[int]) -> None:
        self._known = {}

    def children(self, path: Sequence[int], width: int) -> Children:
        at = tuple(path)
        if at not in self._known:
            tokens = self._chain(at, CHAIN)
            for i, known in enumerate(tokens):
                self._known[at + tuple(tokens[:i])] = known
            if len(tokens) < CHAIN:
                self._known[at + tuple(tokens)] = None
        token = self._known[at]
        return NOTHING if token is None else Children([token], [float("inf")])
