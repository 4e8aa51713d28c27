"""The target's hidden states on their way to drafters: which rows of a step are wanted, and what goes with each commit.

Promises: costs nothing where no drafter asks. A state leaves the device once, in bfloat16, all of a step in one copy. A commit's states
are those that chose its tokens, one of each. None is kept beyond its commit: only the states of a prompt's last tokens wait for its end.
"""

from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from drafthouse.engine.hidden_states import to_bytes
from drafthouse.engine.tree_rows import TreeRows
from drafthouse.wire.states import NUMBER_BYTES, StatesWish

if TYPE_CHECKING:
    from verifier.sequence import Sequence
    from verifier.step import Walked

NO_ROWS = np.zeros(0, dtype=np.int64)


class UnsentStates:
    """Of one session: the states at the positions before `end`, as many as there are `rows`, that its drafter has not been sent."""

    def __init__(self, wish: StatesWish):
        self.wish, self.end = wish, 0
        self.rows: list[bytes] = []

    def first_wanted(self, start: int, length: int) -> int:
        """Of positions from `start` on in a chunk of a text of `length` tokens, the first whose state is wanted."""
        return max(start, length - self.wish.rows, self.end)

    def add(self, position: int, rows: TypingSequence[bytes]) -> None:
        """States at positions from `position` on. Behind a gap, as where KV came out of the prefix cache, they are all there is."""
        if position != self.end:
            self.rows = []
        self.rows += rows
        self.end = position + len(rows)

    def take(self, length: int, new: int) -> bytes:
        """Those for a commit after which the text has `length` tokens, `new` ones among them: they chose the last of these."""
        rows, self.rows = self.rows, []
        return b"".join(rows[-max(new, self.wish.rows) :]) if self.end == length - 1 else b""


@dataclass(frozen=True, slots=True)
class ChunkStates:
    """The states of a chunk's last `count` tokens, the first at `position`; `first` is its row among the step's."""

    sequence: "Sequence"
    first: int
    position: int
    count: int


class WantedStates:
    """Of a step: the rows of trees whose states the device gives, and then those of chunks."""

    def __init__(self, decoding: TypingSequence["Sequence"] = (), trees: TreeRows | None = None):
        self.first: dict[int, int] = {}  # of a place among those that decode: its first row of states, less its first row in the step
        self.tree_rows, self.chunks, self.count = NO_ROWS, list[ChunkStates](), 0
        places = [place for place, s in enumerate(decoding) if unsent_of(s) is not None]
        if places and trees is not None:
            bounds = [(int(trees.first[place]), int(trees.first[place + 1])) for place in places]
            for place, (first, end) in zip(places, bounds, strict=True):
                self.first[place] = self.count - first
                self.count += end - first
            self.tree_rows = np.concatenate([np.arange(first, end) for first, end in bounds])

    def of_chunk(self, s: "Sequence", start: int, count: int) -> range:
        """Of a chunk of `count` tokens from position `start` on: the indices whose states are wanted."""
        if (unsent := unsent_of(s)) is None or (first := unsent.first_wanted(start, len(s.tokens))) >= start + count:
            return range(0)
        self.chunks.append(ChunkStates(s, self.count, first, start + count - first))
        self.count += start + count - first
        return range(first - start, count)

    def keep(self, walked: TypingSequence["Walked"], states: torch.Tensor) -> None:
        """Of the states `[count, size]` that the device gave, those that chose tokens, for the commits. Called before these are made."""
        found: list[tuple[Sequence, int, np.ndarray]] = [
            (w.sequence, len(w.sequence.tokens) - 1, w.rows + self.first[place])
            for place, w in enumerate(walked)
            if place in self.first and w.rows is not None
        ]
        found += [(chunk.sequence, chunk.position, np.arange(chunk.first, chunk.first + chunk.count)) for chunk in self.chunks]
        rows = np.concatenate([NO_ROWS, *(rows for _, _, rows in found)])
        data, row_bytes, at = to_bytes(states[torch.from_numpy(rows).to(states.device)]), NUMBER_BYTES * states.shape[1], 0
        for s, position, mine in found:
            end = at + row_bytes * len(mine)
            if (unsent := unsent_of(s)) is not None:
                unsent.add(position, [data[each : each + row_bytes] for each in range(at, end, row_bytes)])
            at = end


def unsent_of(s: "Sequence") -> UnsentStates | None:
    """None where no drafter asks for this sequence's states."""
    return s.draft_session.unsent_states if s.draft_session is not None else None
