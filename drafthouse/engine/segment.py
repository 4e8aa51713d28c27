"""What one sequence brings to a step: its new tokens, their positions, and which KV entries each of them sees.

Promises: a segment's new tokens are the last entries of its KV sequence. New token `i` sees the first `prefix[i]` entries and
then those of `lines[i]`, its ancestors by depth and itself last. Read in that order, positions rise: entry `e` of the prefix
stands at position `e`, from entry `sinks` on `skipped` further; a line's entries stand one after another and end at the
token's own position.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from drafthouse.engine.kv_cache import KvSequence, SlotTable

Numbers = Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class Lines:
    """KV entries of each new token's line, one line after another: small integers, `lengths[i]` of token `i`."""

    lengths: np.ndarray
    entries: np.ndarray

    @staticmethod
    def of(lines: Sequence[Sequence[int]]) -> "Lines":
        return Lines(np.array([len(line) for line in lines]), np.array(list(chain.from_iterable(lines)), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, token: int) -> list[int]:
        first = int(self.lengths[:token].sum())
        return list(self.entries[first : first + self.lengths[token]].tolist())

    def __iter__(self) -> Iterator[list[int]]:
        return (self[token] for token in range(len(self)))


@dataclass(slots=True)
class Segment:
    """`outputs` are indices into `tokens` whose logits are wanted, `states` those whose last hidden state is. `lines` hold entry indices;
    without lines each token's prefix is all that it sees. `inputs` float32 `[tokens, hidden]`: what is added to the tokens' embeddings,
    as the first layer takes them."""

    kv: KvSequence | SlotTable
    tokens: Numbers
    positions: Numbers
    outputs: Sequence[int]
    prefix: Numbers
    lines: Lines | None = None
    sinks: int = 0
    skipped: int = 0
    states: Sequence[int] = ()
    inputs: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def joined(parts: Iterable[Numbers]) -> np.ndarray:
    """One after another, int32; there is at least one."""
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])


def causal(before: int, count: int) -> range:
    """The prefixes of `count` committed tokens after `before` entries: each sees all before it, and itself."""
    return range(before + 1, before + count + 1)


def chunk(kv: KvSequence, tokens: Sequence[int], start: int, want_logits: bool, of_all: bool = False) -> Segment:
    """A run of committed tokens from position `start`; logits of the last one only, or `of_all`."""
    before = len(kv)
    kv.extend(len(tokens))
    last = [len(tokens) - 1] if want_logits else []
    outputs = range(len(tokens)) if of_all else last
    return Segment(kv, tokens, range(start, start + len(tokens)), outputs, causal(before, len(tokens)))
