"""What steps did for requests that wish to be told (docs/trace.md), or that have a span (docs/tracing.md).

Promises: a step without such a request costs one look at each of its sequences. A trace has the tree as it was when the step was
selected, whatever drafts arrived during the run.
"""

from collections.abc import Mapping
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass

import numpy as np

from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.step_trace import MAX_NODES, StepTimes, StepTrace, TracedNode
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.step import DraftedTree, Step, Walked, Walks

NOTHING_DRAFTED = DraftedTree(TokenTree(), (), ())


def drafted_trees(plan: StepPlan, selected: Selected) -> Mapping[str, DraftedTree] | None:
    """Copies of what is on offer to the sequences that are traced, by their ids; None where no sequence of the step is."""
    if not any(s.trace is not None for s in plan.sequences):
        return None
    found, first = dict[str, DraftedTree](), 0
    for place, (tree, verified) in selected.by_place().items():
        size, s = len(tree), plan.decoding[place]
        if s.trace is not None:
            confidences = selected.trusted[first : first + size].tolist()
            found[s.id] = DraftedTree(tree.subtree(range(size)), confidences, verified)
        first += size
    return found


@dataclass(frozen=True, slots=True)
class StepMoment:
    """On the engine's clock: when the step was planned, when its tokens were chosen; seconds of the run; the price of a node."""

    started: float
    chose: float
    device_s: float
    price: float


def step_traces(step: Step, walks: Walks, choices: np.ndarray, moment: StepMoment) -> dict[str, StepTrace]:
    """Of the traced sequences that got tokens, by their ids. Called before the tokens are committed."""
    if step.drafted is None:
        return {}
    found, first, decoding = dict[str, StepTrace](), step.batch.trees.first.tolist(), len(step.plan.decoding)
    for place, w in enumerate(walks.walked):
        if w.sequence.trace is not None and w.tokens:
            after = choices[first[place] + 1 : first[place + 1]].tolist() if place < decoding else []
            found[w.sequence.id] = _trace(w, step.drafted.get(w.sequence.id, NOTHING_DRAFTED), after, moment)
    return found


def note_step(step: Step, walks: Walks, moment: StepMoment) -> None:
    """Into the spans of those of its sequences that have one. Called before the tokens are committed."""
    for s in step.plan.sequences:
        if s.span is not None:
            s.span.joined(moment.started)
    for w in walks.walked:
        if w.sequence.span is not None and w.tokens:
            count = len(w.tokens)
            w.sequence.span.stepped(moment.started, moment.chose, moment.device_s, moment.price, count, w.verified, w.accepted)


def _trace(w: Walked, drafted: DraftedTree, after: TypingSequence[int], moment: StepMoment) -> StepTrace:
    """`after`: what the target chose after each verified node; below 0 where nothing could be said."""
    s = w.sequence
    assert s.trace is not None
    times = StepTimes(max(0.0, moment.started - s.trace.last_end), moment.device_s, moment.chose - moment.started)
    accepted = _path(drafted, w.tokens[: w.accepted])
    kept = kept_nodes(drafted, accepted)
    index = {ROOT: ROOT} | {node: i for i, node in enumerate(kept)}
    chosen: dict[int, int | None] = {node: token if token >= 0 else None for node, token in zip(drafted.verified, after, strict=True)}
    tree = drafted.tree
    nodes = tuple(
        TracedNode(
            tree.tokens[i], index[tree.parents[i]], tree.edges[i], drafted.confidences[i], tree.sources[i], i in chosen, chosen.get(i)
        )
        for i in kept
    )
    number = s.trace.next_step(moment.chose)
    path = tuple(index[node] for node in accepted)
    left_out = len(tree) - len(kept)
    return StepTrace(number, s.request.attempt, len(s.tokens), s.output_len, tuple(w.tokens), nodes, path, moment.price, times, left_out)


def _path(drafted: DraftedTree, tokens: TypingSequence[int]) -> list[int]:
    """The verified nodes that `tokens` lead through."""
    path, node = list[int](), ROOT
    for token in tokens:
        node = next(i for i in drafted.verified if drafted.tree.parents[i] == node and drafted.tree.tokens[i] == token)
        path.append(node)
    return path


def kept_nodes(drafted: DraftedTree, accepted: TypingSequence[int]) -> list[int]:
    """Nodes that the trace has, ascending and closed under parents: the accepted ones before all, then those verified."""
    if len(drafted.tree) <= MAX_NODES:
        return list(range(len(drafted.tree)))
    by_rank = dict.fromkeys([*accepted, *drafted.verified, *range(len(drafted.tree))])
    return sorted(list(by_rank)[:MAX_NODES])
