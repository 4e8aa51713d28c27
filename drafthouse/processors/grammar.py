"""A grammar that the output must follow, at every node along its own path; reasoning may come before it.

Promises: what is committed fits the grammar, whatever was drafted. A token that ends the text may be chosen only where the grammar is
complete, or takes it for text.
Where the grammar leaves one text, the tokenizer's own token for it is the only one: such tokens are known before any model
runs. Nothing is said of the reasoning; the grammar begins after the token that closes it.

Drafted rows of which nothing can be said are `unsaid`: no token may be chosen there. A walk that comes to one ends before it, so the
text stays the same. They lie where the grammar is too large for the library's limits, or behind the rows that `EDIT_S` was enough for.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.processors.edits import WORD_BITS, Edits
from drafthouse.processors.processor import Path, PathProcessor
from drafthouse.sampling import Thought

BEFORE, INSIDE, BEHIND, TEXT = range(4)
"""Of the reasoning: it may begin with the next token; it goes on; it has just ended; nothing or something of the text has come."""

EDIT_S = 0.02
"""Of a step's time, for the rows of one sequence below its root, each time that they are gone through. The row that goes past it is
finished, and the root's is always made."""


class GrammarProcessor(PathProcessor):
    """`forced_tokens` counts those committed that the grammar left no choice."""

    def __init__(
        self,
        matcher: GrammarMatcher,
        thought: Thought | None,
        stop_tokens: Sequence[int],
        output: Sequence[int],
        vocab_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """`matcher` stands at the beginning; `output` is what has been delivered."""
        self._matcher, self._thought, self._stops = matcher, thought, frozenset(stop_tokens)
        self._stop_ids = np.array(sorted(token for token in self._stops if token < vocab_size), dtype=np.int64)
        self._words = (vocab_size + WORD_BITS - 1) // WORD_BITS
        self._vocab_size, self.clock = vocab_size, clock
        self.unsaid: set[tuple[int, ...]] = set()  # paths, since the last commit
        self._at = [TEXT if thought is None else INSIDE if thought.inside else BEFORE]  # after each move that may be taken back
        self.forced_tokens = 0
        self.commit(output)
        self.forced_tokens = 0

    @property
    def error(self) -> str:
        """Why the text cannot go on; empty while it can."""
        return self._matcher.error

    def places(self, paths: Sequence[Path]) -> Iterator[int]:
        """Without those that time does not suffice for."""
        here: Path = ()
        until = self.clock() + EDIT_S
        for row, path in enumerate(paths):
            if path and self.clock() > until:
                self.unsaid.add(tuple(path))
                continue
            self.go(here, path)
            here = path
            yield row
            if path and self._matcher.lost:
                self.unsaid.add(tuple(path))
        self.rollback(len(here))

    def advance(self, token: int) -> None:
        after = self._after(self._at[-1], token)
        self._at.append(after)
        if after == TEXT:
            self._matcher.advance(token)

    def _after(self, at: int, token: int) -> int:
        assert self._thought is not None or at == TEXT
        if self._thought is None or at in (TEXT, BEHIND):
            return TEXT
        if at == BEFORE:
            return INSIDE if token == self._thought.opening else TEXT
        return BEHIND if token == self._thought.closing else INSIDE

    def rollback(self, count: int) -> None:
        if count:
            self._matcher.rollback(self._at[-count:].count(TEXT))
            del self._at[-count:]

    def commit(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.forced_tokens += self.forced() == token
            self.advance(token)
            self._matcher.commit()
        del self._at[:-1]
        self.unsaid.clear()

    def edit_row(self, edits: Edits, row: int) -> None:
        if self._at[-1] == INSIDE or not self._matcher.fits or self._matcher.ended:
            return
        if (forced := self.forced()) is not None:
            edits.keep_only(np.array([row], dtype=np.int64), np.array([forced], dtype=np.int64))
            return
        words = self._allowed()
        if words.any():
            edits.mask(np.array([row], dtype=np.int64), words[None])

    def settle(self, paths: Sequence[Path], tokens: np.ndarray) -> list[int]:
        """Of `tokens`, int64, chosen after each path as if there were no grammar: puts those that are forced in their places, and returns
        the rows of those that must not be chosen. All others are what would have been chosen with the grammar."""
        unfit = []
        for row in self.places(paths):
            if self._at[-1] == INSIDE or not self._matcher.fits or self._matcher.ended:
                continue
            if (forced := self.forced()) is not None:
                tokens[row] = forced
            elif not self._takes(int(tokens[row])):
                unfit.append(row)
        return unfit

    def _takes(self, token: int) -> bool:
        opening = self._thought.opening if self._at[-1] == BEFORE and self._thought is not None else None
        return token == opening or self._matcher.takes(token) or (token in self._stops and self._matcher.complete)

    def forced(self) -> int | None:
        """The one token that may come next, where there is only one and this model has it."""
        if self._at[-1] in (INSIDE, BEFORE):
            return None
        token = self._matcher.forced()
        return token if token is not None and token < self._vocab_size else None

    def _allowed(self) -> np.ndarray:
        words = np.zeros(self._words, dtype=np.uint32)
        known = self._matcher.allowed()[: self._words]
        words[: len(known)] = known
        more = self._stop_ids if self._matcher.complete else self._stop_ids[:0]
        if self._at[-1] == BEFORE and self._thought is not None and self._thought.opening < self._vocab_size:
            more = np.append(more, self._thought.opening)
        if beyond := -self._vocab_size % WORD_BITS:
            words[-1] &= np.uint32((1 << (WORD_BITS - beyond)) - 1)
        np.bitwise_or.at(words, more // WORD_BITS, (1 << (more % WORD_BITS)).astype(np.uint32))
        return words

    def chain(self, path: Path, most: int) -> list[int]:
        """The tokens that the grammar forces below a path, one after another: `most` of them at most."""
        found: list[int] = []
        for token in path:
            self.advance(token)
        while len(found) < most and (forced := self.forced()) is not None:
            found.append(forced)
            self.advance(forced)
        self.rollback(len(path) + len(found))
        return found

    def ends(self, tokens: Sequence[int]) -> int | None:
        moves, end = 0, None
        for token in tokens:
            self.advance(token)
            moves += 1
            if self._at[-1] == TEXT and self._matcher.ended:
                end = moves
                break
        self.rollback(moves)
        return end
