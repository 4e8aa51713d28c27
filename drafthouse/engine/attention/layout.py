"""What attention reads in one step: slots to write, slot tables to read, and what each new token sees of its table.

Promises: pure data about slots and positions, no tensors. Tables have page size 1: entry `e` of a sequence lies in slot
`slots[e]`, in any order of slots. A backend that sums each row's keys in the order `prefix`, then `line` sums them by position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.engine.segment import Lines, Numbers, Segment


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """Rows `[first, end)` of the step's flattened tokens, all of one sequence, over its slot table.

    Row `i` sees the first `prefix[i]` entries and then `lines[i]`, its ancestors by depth with itself last (None: no row has
    any). `positions` are the rows' own; `sinks` and `skipped` say where entries stand (see `Segment`).
    """

    first: int
    end: int
    slots: Sequence[int]
    prefix: Numbers
    lines: Lines | None
    positions: Numbers
    sinks: int
    skipped: int

    def entry_position(self, entry: int) -> int:
        """Of an entry of the prefix."""
        return entry + (self.skipped if entry >= self.sinks else 0)


@dataclass(frozen=True, slots=True)
class StepLayout:
    """`write_slots`: where each new token's key and value go."""

    write_slots: Sequence[int]
    sequences: Sequence[SequenceRows]

    @property
    def tokens(self) -> int:
        return len(self.write_slots)


def layout_of(segments: Sequence[Segment]) -> StepLayout:
    """The layout of a step; segments follow one another in its flattened tokens."""
    write_slots: list[int] = []
    sequences: list[SequenceRows] = []
    for s in segments:
        first = len(write_slots)
        write_slots += s.kv.slots[len(s.kv) - len(s) :]
        sequences.append(SequenceRows(first, first + len(s), s.kv.slots, s.prefix, s.lines, s.positions, s.sinks, s.skipped))
    return StepLayout(write_slots, sequences)
