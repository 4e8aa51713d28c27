"""What one sequence brings to a step: its new tokens, their positions, and which KV entries each of them sees.

Promises: a segment's new tokens are the last entries of its KV sequence. New token `i` sees the first `prefix[i]` entries and
then those of `lines[i]`, its ancestors by depth and itself last. Read in that order, positions rise: entry `e` of the prefix
stands at position `e`, from entry `sinks` on `skipped` further; a line's entries stand one after another and end at the
token's own position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.engine.kv_cache import KvSequence, SlotTable
from drafthouse.token_tree import TokenTree


@dataclass(slots=True)
class Segment:
    """`outputs` are indices into `tokens` whose logits are wanted. `lines` hold entry indices, one list for each new token;
    without lines each token's prefix is all that it sees."""

    kv: KvSequence | SlotTable
    tokens: Sequence[int]
    positions: Sequence[int]
    outputs: Sequence[int]
    prefix: Sequence[int]
    lines: Sequence[Sequence[int]] | None = None
    sinks: int = 0
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


def causal(before: int, count: int) -> range:
    """The prefixes of `count` committed tokens after `before` entries: each sees all before it, and itself."""
    return range(before + 1, before + count + 1)


def chunk(kv: KvSequence, tokens: Sequence[int], start: int, want_logits: bool) -> Segment:
    """A run of committed tokens from position `start`; logits of the last one only."""
    before = len(kv)
    kv.extend(len(tokens))
    outputs = [len(tokens) - 1] if want_logits else []
    return Segment(kv, tokens, range(start, start + len(tokens)), outputs, causal(before, len(tokens)))


def tree_step(kv: KvSequence, root: int, start: int, tree: TokenTree) -> Segment:
    """The pending token `root` at position `start` and the tree below it; logits of all of them, root first."""
    before = len(kv)
    kv.extend(1 + len(tree))
    if not len(tree):
        return Segment(kv, [root], [start], [0], [before + 1])
    root_line: list[int] = []  # the root is the last entry of every prefix
    lines = [root_line, *([before + 1 + node for node in line] for line in tree.lines())]
    positions = [start + len(line) for line in lines]
    return Segment(kv, [root, *tree.tokens], positions, range(1 + len(tree)), [before + 1] * (1 + len(tree)), lines)
