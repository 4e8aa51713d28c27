"""The contract of a logits processor: an object of one sequence that says what changes at each of its rows.

Every sampling feature that looks at tokens is one, penalties and grammars alike, in the verifier and in the drafter.

Promises that every processor makes:
- *Pure along paths.* What `edit` says of a row depends on the committed tokens and on that row's path alone: not on the other rows, on
  their order, nor on how tokens arrived (one commit of three is three commits of one). So text is the same with and without trees.
- *No trace.* `edit` leaves the processor as it was; `commit` alone moves it on. Preempted, moved and resumed sequences are made again
  from all their tokens, and say the same.
- *Bounded.* `edit` costs at most the sum over its rows of path length plus named entries, in numpy where entries are many: never a
  step in Python for each id of the vocabulary. `commit` costs at most its tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from drafthouse.processors.edits import Edits

Path = Sequence[int]
"""Drafted tokens from below the root down to a row; empty for the root. The root is the last committed token: nothing is between."""


class LogitsProcessor(ABC):
    @abstractmethod
    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        """Says what changes in rows `first`, `first + 1` ... of a step, one for each path: logits float32 `[vocab]` of the token after it.

        Paths come parents before children. A drafted token may be one that must not be chosen: then no walk reaches the rows
        below it, and what is said of them counts for nothing, but it must not raise.
        """

    @abstractmethod
    def commit(self, tokens: Sequence[int]) -> None:
        """These tokens follow the committed ones."""


class PathProcessor(LogitsProcessor):
    """A processor with a state that moves along tokens and back: a matcher of a grammar, or the last tokens of the text.

    A subclass moves by single tokens and says what holds at one place. From row to row only what differs between two paths is
    gone back and forth, so a tree in depth-first order costs one move down and one up for each node.
    """

    @abstractmethod
    def advance(self, token: int) -> None:
        """Moves on by a token, which may be one that must not be chosen."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Takes the last `count` moves back."""

    @abstractmethod
    def edit_row(self, edits: Edits, row: int) -> None:
        """Says what changes in this row, for the token after all moves so far."""

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        for row in self.places(paths):
            self.edit_row(edits, first + row)

    def places(self, paths: Sequence[Path]) -> Iterator[int]:
        """Goes to the end of each path in turn, and back at last; must be read to its end."""
        here: Path = ()
        for row, path in enumerate(paths):
            self.go(here, path)
            here = path
            yield row
        self.rollback(len(here))

    def go(self, here: Path, path: Path) -> None:
        """From the end of one path to that of another."""
        common = common_length(here, path)
        self.rollback(len(here) - common)
        for token in path[common:]:
            self.advance(token)

    def commit(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.advance(token)


def common_length(a: Path, b: Path) -> int:
    """Tokens that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
