"""A step's segments in one buffer: their numbers, one segment after another.

Promises: it is the sequence of its segments, which are views of it; nothing is done row by row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import torch

from drafthouse.engine.kv_cache import KvSequence, SlotTable, extend_all
from drafthouse.engine.segment import Lines, Segment, joined
from drafthouse.engine.tree_rows import TreeRows, tree_rows
from drafthouse.token_tree import TokenTree

NONE = np.zeros(0, dtype=np.int32)


def _none() -> np.ndarray:
    return NONE


@dataclass(frozen=True, slots=True)
class PackedStep(Sequence[Segment]):
    """`first[i]` is the first row of segment `i`; the last one is the number of rows. By row: tokens, positions, prefix, the lengths of
    lines, whose `entries` follow one another, and the KV `slots` that are written. `outputs` and `states` are rows, ascending. By
    segment: `sinks` and `skipped`. `inputs[i]` is added to the embedding of row `input_rows[i]`, ascending; None: to none."""

    tables: Sequence[KvSequence | SlotTable]
    first: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    prefix: np.ndarray
    lengths: np.ndarray
    entries: np.ndarray
    slots: np.ndarray
    outputs: np.ndarray
    sinks: np.ndarray
    skipped: np.ndarray
    states: np.ndarray = field(default_factory=_none)
    inputs: torch.Tensor | None = None
    input_rows: np.ndarray = field(default_factory=_none)

    def __len__(self) -> int:
        return len(self.tables)

    @overload
    def __getitem__(self, at: int) -> Segment: ...
    @overload
    def __getitem__(self, at: slice) -> list[Segment]: ...
    def __getitem__(self, at: int | slice) -> Segment | list[Segment]:
        return list(self)[at]

    def __iter__(self) -> Iterator[Segment]:
        line_first = np.concatenate([[0], np.cumsum(self.lengths)])[self.first].tolist()
        first = self.first.tolist()
        output_first, state_first, input_first = (
            np.searchsorted(rows, self.first).tolist() for rows in (self.outputs, self.states, self.input_rows)
        )
        for i, kv in enumerate(self.tables):
            a, b = first[i], first[i + 1]
            entries = self.entries[line_first[i] : line_first[i + 1]]
            added = slice(input_first[i], input_first[i + 1])
            yield Segment(
                kv, self.tokens[a:b], self.positions[a:b], (self.outputs[output_first[i] : output_first[i + 1]] - a).tolist(),
                self.prefix[a:b], Lines(self.lengths[a:b], entries) if len(entries) else None, int(self.sinks[i]), int(self.skipped[i]),
                (self.states[state_first[i] : state_first[i + 1]] - a).tolist() if len(self.states) else (),
                self.inputs[added] if self.inputs is not None and added.start < added.stop else None,
            )  # fmt: skip


def packed(segments: Sequence[Segment]) -> PackedStep:
    """At least one segment; itself if it is packed."""
    if isinstance(segments, PackedStep):
        return segments
    if len(segments) == 1:
        return _alone(segments[0])
    first = np.cumsum([0, *(len(s) for s in segments)])
    fed = [i for i, s in enumerate(segments) if s.inputs is not None]
    lengths = [s.lines.lengths if s.lines is not None else np.zeros(len(s), dtype=np.int32) for s in segments]
    return PackedStep(
        [s.kv for s in segments], first, joined([s.tokens for s in segments]), joined([s.positions for s in segments]),
        joined([s.prefix for s in segments]), joined(lengths),
        joined([NONE, *(s.lines.entries for s in segments if s.lines is not None)]),
        joined([s.kv.slots[len(s.kv) - len(s) :] for s in segments]),
        _rows([s.outputs for s in segments], first),
        np.array([s.sinks for s in segments]), np.array([s.skipped for s in segments]),
        _rows([s.states for s in segments], first) if any(len(s.states) for s in segments) else NONE,
        torch.cat([inputs for s in segments if (inputs := s.inputs) is not None]) if fed else None,
        joined([NONE, *(np.arange(first[i], first[i + 1]) for i in fed)]),
    )  # fmt: skip


def _alone(s: Segment) -> PackedStep:
    """A step of one segment: its numbers are the step's."""
    count = len(s)
    slots = np.frombuffer(s.kv.slots[len(s.kv) - count :], dtype=np.int32)
    lengths, entries = (s.lines.lengths, s.lines.entries) if s.lines is not None else (np.zeros(count, dtype=np.int32), NONE)
    tokens, positions, prefix, outputs = (np.array(each, dtype=np.int32) for each in (s.tokens, s.positions, s.prefix, s.outputs))
    states = outputs if s.states is s.outputs else np.array(s.states, dtype=np.int32)
    return PackedStep(
        [s.kv], np.array([0, count]), tokens, positions, prefix, lengths, entries, slots, outputs, np.array([s.sinks]),
        np.array([s.skipped]), states, s.inputs, np.arange(count) if s.inputs is not None else NONE,
    )  # fmt: skip


def _rows(wanted: Sequence[Sequence[int]], first: np.ndarray) -> np.ndarray:
    """Indices within each segment as rows of the step."""
    return joined([np.asarray(some, dtype=np.int32) + row for some, row in zip(wanted, first.tolist(), strict=False)])


def tree_step(kv: KvSequence, root: int, tree: TokenTree) -> Segment:
    """The pending token `root` and the tree below it; logits of all of them, root first."""
    [segment] = tree_steps([kv], tree_rows([root], [tree], [0]))
    return segment


def tree_steps(sequences: Sequence[KvSequence], rows: TreeRows, states: np.ndarray = NONE) -> PackedStep:
    """As `tree_step`, of several sequences, with the last hidden states of the rows `states`, ascending. Every entry of theirs stands at
    its own position."""
    before = rows.spread([len(kv) for kv in sequences])
    slots = extend_all(sequences, rows.counts.tolist())
    ancestors, numbers = rows.ancestors(), np.arange(len(rows))
    entries = (numbers + before - rows.spread(rows.first[:-1]))[ancestors]
    none = np.zeros(len(sequences), dtype=np.int32)
    return PackedStep(
        sequences, rows.first, rows.tokens, before + rows.depths, before + 1, rows.depths, entries, slots, numbers, none, none, states
    )  # fmt: skip
