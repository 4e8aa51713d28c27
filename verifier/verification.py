"""From a plan to what the device runs, and from its logits to what each sequence has accepted.

Promises: a draft is accepted if and only if it equals what the target chose there; each sequence
that got logits commits at least one token.
"""

from collections.abc import Mapping
from collections.abc import Sequence as TypingSequence

import torch

from drafthouse.choose import Row, choose
from drafthouse.engine.segment import chunk, tree_step
from drafthouse.noise import mix64, position_key
from drafthouse.stop_tokens import cut_at_stop
from drafthouse.token_tree import ROOT, TokenTree
from verifier.scheduler import StepPlan
from verifier.step import Entry, Step, Walked

EMPTY = TokenTree()

SALT = 0x5EED_ACCE
"""Keeps the draw of a synthetic acceptance apart from the noise that chooses tokens."""


class Verification:
    def __init__(self, synthetic_rate: float | None):
        """With a `synthetic_rate` acceptance is drawn instead of compared, see `_drawn`."""
        self.synthetic_rate = synthetic_rate

    def prepare(self, plan: StepPlan, trees: Mapping[str, TokenTree]) -> list[Entry]:
        """`trees` are the selected nodes by request id. Allocates the KV entries."""
        entries = []
        for s in plan.decoding:
            tree = trees.get(s.id, EMPTY)
            entries.append(Entry(s, tree_step(s.kv, s.tokens[-1], len(s.tokens) - 1, tree), tree, True))
        for s, count in plan.prefilling:
            start = len(s.kv)
            last = start + count == len(s.tokens)
            entries.append(Entry(s, chunk(s.kv, s.tokens[start : start + count], start, last), EMPTY, last))
        return entries

    def choose(self, step: Step, logits: torch.Tensor) -> list[list[int]]:
        """What the target chooses: of each entry that gets a token, after its root and after each node of its tree."""
        choosing = [entry for entry in step.entries if entry.choosing]
        if not choosing:
            return []
        chosen = iter(choose(logits, [row for entry in choosing for row in _rows(entry)]))
        choices = [[next(chosen) for _ in range(1 + len(entry.tree))] for entry in choosing]
        if self.synthetic_rate is not None:
            return [_drawn(mine, entry, self.synthetic_rate, logits.shape[1]) for mine, entry in zip(choices, choosing, strict=True)]
        return choices

    def walk(self, step: Step, choices: TypingSequence[list[int]]) -> list[Walked]:
        """Walks each tree and keeps the KV of the accepted path only. A path ends with a stop token: drafts behind it are neither
        committed nor counted."""
        walked = []
        for entry, mine in zip([entry for entry in step.entries if entry.choosing], choices, strict=True):
            tree, s = entry.tree, entry.sequence
            accepted, bonus = tree.walk(mine[0], mine[1:])
            tokens, _ = cut_at_stop([*(tree.tokens[node] for node in accepted), bonus], s.request.stop_tokens)
            accepted = accepted[: len(tokens)]
            if len(tree):
                s.kv.keep(len(s.tokens), [len(s.tokens) + node for node in accepted])
            walked.append(Walked(s, tokens, tree, accepted))
        return walked


def _rows(entry: Entry) -> list[Row]:
    s, r = entry.sequence, entry.sequence.request
    position = len(s.tokens)
    rows = [Row(r.sampling, r.seed, position, (), s.seen)]
    for node, depth in enumerate(entry.tree.depths()):
        path = entry.tree.path(node) if r.sampling.penalises else ()
        rows.append(Row(r.sampling, r.seed, position + depth, path, s.seen))
    return rows


def _drawn(choices: list[int], entry: Entry, rate: float, vocab_size: int) -> list[int]:
    """What stands for `choices` where acceptance is drawn, so that policy can be tested at any rate. The text is then not the target's.

    After the root, and after each accepted node, the target "chooses" the first child that was drafted there with probability `rate`,
    verified or not, and no drafted child otherwise. The draw depends on the request's seed and the position alone. The drafter's own
    tree counts where it is known: a plain step, too, may commit what was drafted.
    """
    s, tree = entry.sequence, entry.tree
    drafted = s.draft_session.tree if s.draft_session is not None and len(s.draft_session.tree) else tree
    result = list(choices)
    for node in range(ROOT, len(tree)):
        path = tree.path(node)
        at = drafted.find(path)
        children = [drafted.tokens[child] for child in drafted.children(at)] if at is not None else []
        if children and uniform(s.request.seed, len(s.tokens) + len(path)) < rate:
            result[node + 1] = children[0]
        elif children:
            result[node + 1] = _other(choices[node + 1], {*children, *s.request.stop_tokens}, vocab_size)
    return result


def uniform(seed: int, position: int) -> float:
    """Between 0 and 1."""
    return (mix64(position_key(seed, position) ^ SALT) >> 11) / float(1 << 53)


def _other(choice: int, taken: set[int], vocab_size: int) -> int:
    """The target's choice, or the next token that is neither drafted here nor ends the text, if there is one."""
    return next((token for i in range(vocab_size) if (token := (choice + i) % vocab_size) not in taken), choice)
