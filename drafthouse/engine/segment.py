"""What one sequence brings to a step: its new tokens, their positions, and who sees whom.

Promises: a segment's new tokens are the last entries of its KV sequence. All entries but the last
`tail` are committed tokens, seen by every new token, entry `i` at position `i`; where `sinks` and
`skipped` are given, those from entry `sinks` on are `skipped` positions further. Within the tail
`mask` decides; without a mask the tail is exactly the new tokens and each sees those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drafthouse.engine.kv_cache import KvSequence, SlotList
from drafthouse.token_tree import TokenTree


@dataclass(slots=True)
class Segment:
    """`outputs` are indices into `tokens` whose logits are wanted."""

    kv: KvSequence | SlotList
    tokens: Sequence[int]
    positions: Sequence[int]
    outputs: Sequence[int]
    mask: np.ndarray | Sequence[Sequence[bool]] | None = None  # [new tokens][tail]
    tail_positions: Sequence[int] | None = None  # positions of the tail's entries; goes with `mask`
    sinks: int = 0
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


def chunk(kv: KvSequence, tokens: Sequence[int], start: int, want_logits: bool) -> Segment:
    """A run of committed tokens from position `start`; logits of the last one only."""
    kv.extend(len(tokens))
    outputs = [len(tokens) - 1] if want_logits else []
    return Segment(kv, tokens, range(start, start + len(tokens)), outputs)


def tree_step(kv: KvSequence, root: int, start: int, tree: TokenTree) -> Segment:
    """The pending token `root` at position `start` and the tree below it; logits of all of them, root first."""
    kv.extend(1 + len(tree))
    if not len(tree):
        return Segment(kv, [root], [start], [0])
    positions = [start] + [start + depth for depth in tree.depths()]
    mask = [[True] + [False] * len(tree)] + [[True, *row] for row in tree.ancestor_mask()]
    return Segment(kv, [root, *tree.tokens], positions, range(1 + len(tree)), mask, positions)
