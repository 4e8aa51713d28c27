"""From a plan to what the device runs, and from its logits to what each sequence has accepted.

Promises: a draft is accepted if and only if it equals what the target chose there; each sequence
that got logits commits at least one token.
"""

from collections.abc import Sequence as TypingSequence
from dataclasses import replace

import numpy as np
import torch

from drafthouse.choose import Rows, chosen
from drafthouse.engine.kv_cache import keep_last
from drafthouse.engine.packed_step import packed, tree_steps
from drafthouse.engine.segment import Segment, chunk
from drafthouse.engine.tree_rows import TreeRows
from drafthouse.noise import mix64, position_key
from drafthouse.stages.build import PREDICTION
from drafthouse.token_tree import ROOT, TokenTree
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence
from verifier.step import Batch, Step, Walked, Walks
from verifier.unsent_states import WantedStates

EMPTY = TokenTree()

NONE = -1
"""Stands for a choice below the root that cannot be made: a grammar says nothing there. A walk ends before such a row."""

SALT = 0x5EED_ACCE
"""Keeps the draw of a synthetic acceptance apart from the noise that chooses tokens."""


class Verification:
    def __init__(self, synthetic_rate: float | None):
        """With a `synthetic_rate` acceptance is drawn instead of compared, see `_drawn`."""
        self.synthetic_rate = synthetic_rate

    def prepare(self, plan: StepPlan, selected: Selected) -> Batch:
        """Allocates the KV entries."""
        trees = selected.rows([s.tokens[-1] for s in plan.decoding])
        states = WantedStates(plan.decoding, trees)
        step = tree_steps([s.kv for s in plan.decoding], trees, states.tree_rows)
        chunks, batch, rows = list[Segment](), Batch(step, trees, [], states=states), len(trees)
        for s, count in plan.prefilling:
            start = len(s.kv)
            last = start + count == len(s.tokens)
            chunks.append(chunk(s.kv, s.tokens[start : start + count], start, last, s.unscored > 0))
            chunks[-1].states = states.of_chunk(s, start, count)
            if s.unscored:
                batch.scored.append((s, rows, start))
            rows += len(chunks[-1].outputs)
            if last:
                batch.prompted.append(s)
                batch.ends.append(rows - 1)
        return replace(batch, segments=packed([*step, *chunks])) if chunks else batch

    def choose(self, step: Step, logits: torch.Tensor) -> np.ndarray:
        """What the target chooses, int64: after each row of the trees, and for each sequence whose prompt ends."""
        decoding, prompted = step.plan.decoding, step.batch.prompted
        if not decoding and not prompted:
            return np.zeros(0, dtype=np.int64)
        parts = _tree_parts(decoding, step.batch.trees)
        parts += [Rows(s.request.sampling, s.request.seed, (len(s.tokens),), (), s.processors) for s in prompted]
        if step.batch.scored:
            logits = logits[[*range(len(step.batch.trees)), *step.batch.ends]]
        choices = chosen(logits, parts)
        _leave_out_unsaid(decoding, step.batch.trees, choices)
        if self.synthetic_rate is not None:
            return np.array(_drawn(choices.tolist(), step, self.synthetic_rate, logits.shape[1]))
        return choices

    def walk(self, step: Step, choices: np.ndarray) -> Walks:
        """Walks each tree and keeps the KV of the accepted path only. A path ends where the text does: drafts behind that are neither
        committed nor counted."""
        trees, decoding = step.batch.trees, step.plan.decoding
        after_rows, prompted = choices[: len(trees)], choices[len(trees) :].tolist()
        reached = trees.walk(after_rows)
        tokens, ends = after_rows[reached].tolist(), np.cumsum(trees.totals(reached)).tolist()
        walked, first, states_wanted = [], 0, step.batch.states.first
        for place, (s, end) in enumerate(zip(decoding, ends, strict=True)):
            mine = tokens[first:end]
            if mine[-1] == NONE:
                reached[trees.first[place] + np.flatnonzero(reached[trees.first[place] : trees.first[place + 1]])[-1]] = False
                mine = mine[:-1]
            mine, stopped = s.cut(mine)
            walked.append(Walked(s, mine, stopped=stopped))
            first = end
            if stopped or s.request.logprobs.top is not None or place in states_wanted:
                rows = trees.first[place] + np.flatnonzero(reached[trees.first[place] : trees.first[place + 1]])
                walked[-1].rows = rows[: len(mine)]
            if stopped:
                reached[rows[1 + len(mine) :]] = False
        walks = Walks(walked)
        if trees.nodes:
            keep_last([s.kv for s in decoding], trees.counts.tolist(), packed(step.batch.segments).slots[: len(trees)], reached)
            walks = _counted(walked, step.selected, trees, reached)
        for s, choice, row in zip(step.batch.prompted, prompted, step.batch.ends, strict=True):
            mine, stopped = s.cut([choice])
            walks.walked.append(Walked(s, mine, rows=np.array([row]), stopped=stopped))
        return walks


def _leave_out_unsaid(decoding: TypingSequence[Sequence], trees: TreeRows, choices: np.ndarray) -> None:
    for place, s in enumerate(decoding):
        if s.grammar is not None and s.grammar.unsaid:
            tree, first = trees.tree(place), trees.first[place] + 1
            for node in range(len(tree)):
                if tuple(tree.path(node)) in s.grammar.unsaid:
                    choices[first + node] = NONE


def _counted(walked: list[Walked], selected: Selected, trees: TreeRows, reached: np.ndarray) -> Walks:
    """Fills in what came of the nodes: `reached` are the roots and the accepted ones."""
    rows, counts = np.flatnonzero(reached), trees.totals(reached)
    ends = np.cumsum(counts)
    index = rows - np.repeat(trees.first[:-1], counts)  # of a node, from 1 on; the root's is 0
    drafters = np.add.reduceat(index <= np.repeat(selected.of_drafter, counts), ends - counts, dtype=np.int64) - 1
    more = trees.with_children()[rows[ends - 1]]
    columns = (selected.counts, (counts - 1).tolist(), drafters.tolist(), more.tolist())
    for w, verified, accepted, of_drafter, further in zip(walked, *columns, strict=True):
        w.verified, w.accepted, w.of_drafter, w.more = verified, accepted, of_drafter, further
    predicted = trees.sources == PREDICTION  # of a root the source is -1
    if predicted.any():
        of, hit = trees.totals(predicted).tolist(), trees.totals(predicted & reached).tolist()
        for w, count, right in zip(walked, of, hit, strict=True):
            w.predicted, w.predicted_accepted = count, right
    return Walks(walked, _by_source(trees.sources), _by_source(trees.sources[rows]))


def _by_source(sources: np.ndarray) -> dict[int, int]:
    """Rows of each, without the roots."""
    return {source: count for source, count in enumerate(np.bincount(sources + 1).tolist()[1:]) if count}


def _tree_parts(decoding: TypingSequence[Sequence], trees: TreeRows) -> list[Rows]:
    positions, first, parts = trees.depths + trees.spread([len(s.tokens) for s in decoding]), trees.first.tolist(), []
    for place, s in enumerate(decoding):
        r = s.request
        paths: list[list[int]] = []
        if s.processors is not None and first[place + 1] - first[place] > 1:
            tree = trees.tree(place)
            paths = [tree.path(node) for node in range(ROOT, len(tree))]
        parts.append(Rows(r.sampling, r.seed, positions[first[place] : first[place + 1]], paths, s.processors))
    return parts


def _drawn(choices: list[int], step: Step, rate: float, vocab_size: int) -> list[int]:
    """What stands for `choices` where acceptance is drawn, so that policy can be tested at any rate. The text is then not the target's.

    After the root, and after each accepted node, the target "chooses" the first child that was drafted there with probability `rate`,
    verified or not, and no drafted child otherwise. The draw depends on the request's seed and the position alone. The drafter's own
    tree counts where it is known: a plain step, too, may commit what was drafted.
    """
    result, sequences = list(choices), [*step.plan.decoding, *step.batch.prompted]
    first = [*step.batch.trees.first.tolist(), *range(len(step.batch.trees) + 1, len(choices) + 1)]
    for place, s in enumerate(sequences):
        tree = step.batch.trees.tree(place) if first[place + 1] - first[place] > 1 else EMPTY
        drafted = s.draft_session.tree if s.draft_session is not None and len(s.draft_session.tree) else tree
        for node in range(ROOT, len(tree)):
            row, path = first[place] + 1 + node, tree.path(node)
            at = drafted.find(path)
            children = [drafted.tokens[child] for child in drafted.children(at)] if at is not None else []
            if children and uniform(s.request.seed, len(s.tokens) + len(path)) < rate:
                result[row] = children[0]
            elif children:
                result[row] = _other(choices[row], {*children, *s.request.stop_tokens}, vocab_size)
    return result


def uniform(seed: int, position: int) -> float:
    """Between 0 and 1."""
    return (mix64(position_key(seed, position) ^ SALT) >> 11) / float(1 << 53)


def _other(choice: int, taken: set[int], vocab_size: int) -> int:
    """The target's choice, or the next token that is neither drafted here nor ends the text, if there is one."""
    return next((token for i in range(vocab_size) if (token := (choice + i) % vocab_size) not in taken), choice)
