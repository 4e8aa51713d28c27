"""What one verification step is made of: segments for the runner, rows for choosing, walks of the result.

Promises: a draft is accepted if and only if it equals what the target chose there; each sequence
that got logits commits at least one token.
"""

from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass

import torch

from drafthouse.choose import Row, choose
from drafthouse.engine.segment import Segment, chunk, tree_step
from drafthouse.stop_tokens import cut_at_stop
from drafthouse.token_tree import TokenTree
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence
from verifier.synthetic import drawn_choices

EMPTY = TokenTree()


@dataclass(slots=True)
class Entry:
    """One sequence's part of a step; `tree` holds the nodes that are verified, `choosing` is whether it gets a token."""

    sequence: Sequence
    segment: Segment
    tree: TokenTree
    choosing: bool


@dataclass(slots=True)
class Walked:
    """Accepted draft tokens and the bonus token; nodes verified, and which of them were accepted."""

    sequence: Sequence
    tokens: list[int]
    verified: int
    path: TypingSequence[int]

    @property
    def accepted(self) -> int:
        return len(self.path)


def build(plan: StepPlan, trees: dict[str, TokenTree]) -> list[Entry]:
    """Entries of a plan; `trees` are the selected nodes by request id. Allocates the KV entries."""
    entries = []
    for s in plan.decoding:
        tree = trees.get(s.id, EMPTY)
        entries.append(Entry(s, tree_step(s.kv, s.tokens[-1], len(s.tokens) - 1, tree), tree, True))
    for s, count in plan.prefilling:
        start = len(s.kv)
        last = start + count == len(s.tokens)
        entries.append(Entry(s, chunk(s.kv, s.tokens[start : start + count], start, last), EMPTY, last))
    return entries


def _rows(entry: Entry) -> list[Row]:
    s, r = entry.sequence, entry.sequence.request
    position = len(s.tokens)
    rows = [Row(r.sampling, r.seed, position, (), s.seen)]
    for node, depth in enumerate(entry.tree.depths()):
        path = entry.tree.path(node) if r.sampling.penalises else ()
        rows.append(Row(r.sampling, r.seed, position + depth, path, s.seen))
    return rows


def walk(entries: list[Entry], logits: torch.Tensor, synthetic_rate: float | None = None) -> list[Walked]:
    """Chooses at every row of logits, walks each tree, and keeps the KV of the accepted path only. A path ends with a stop
    token: drafts behind it are neither committed nor counted.

    With a `synthetic_rate` acceptance is drawn: see `verifier.synthetic`.
    """
    choosing = [entry for entry in entries if entry.choosing]
    if not choosing:
        return []
    rows = [row for entry in choosing for row in _rows(entry)]
    choices = choose(logits, rows)
    walked, first = [], 0
    for entry in choosing:
        tree, s = entry.tree, entry.sequence
        mine = choices[first : first + 1 + len(tree)]
        first += 1 + len(tree)
        if synthetic_rate is not None:
            mine = drawn_choices(mine, tree, s, synthetic_rate, logits.shape[1])
        accepted, bonus = tree.walk(mine[0], mine[1:])
        tokens = [*(tree.tokens[node] for node in accepted), bonus]
        tokens, _ = cut_at_stop(tokens, s.request.stop_tokens)
        accepted = accepted[: len(tokens)]
        if len(tree):
            s.kv.keep(len(s.tokens), [len(s.tokens) + node for node in accepted])
        walked.append(Walked(s, tokens, len(tree), accepted))
    return walked
