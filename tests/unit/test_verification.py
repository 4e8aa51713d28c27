"""A step prepared, chosen and walked for all sequences at once, against one row at a time."""

import random
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drafthouse.choose import Rows, choose
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import SamplingParams
from drafthouse.stop_tokens import cut_at_stop
from drafthouse.token_logprobs import NO_LOGPROBS
from drafthouse.token_tree import ROOT, TokenTree
from tests.unit.test_tree_rows import walk
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.step import Step
from verifier.verification import Verification

VOCAB = 40
SAMPLINGS = [
    SamplingParams(0.0),
    SamplingParams(0.0, repetition_penalty=1.5),
    SamplingParams(1.0),
    SamplingParams(0.7, repetition_penalty=0.6),
    SamplingParams(0.8, top_k=5),
    SamplingParams(1.2, top_p=0.7),
    SamplingParams(1.0, min_p=0.1),
    SamplingParams(0.9, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.3),
    SamplingParams(0.0, presence_penalty=1.5, frequency_penalty=-0.3, min_tokens=12),
    SamplingParams(1.0, logit_bias=((2, 4.0), (9, -100.0)), bad_words=((3,), (1, 2), (0, 1, 0)), min_tokens=9),
    SamplingParams(0.5, allowed_token_ids=(0, 1, 2, 3, 30), frequency_penalty=0.5, repetition_penalty=0.8),
]


@dataclass
class Setting:
    plan: StepPlan
    trees: list[TokenTree]
    selected: Selected
    cache: KvCache


def tree_of(rng: random.Random) -> TokenTree:
    """Few tokens, so that walks go on for some nodes."""
    tree = TokenTree()
    for _ in range(rng.randint(0, 12)):
        tree.add(rng.randrange(4), rng.randint(ROOT, len(tree) - 1), 0.5, rng.randrange(3))
    return tree


def sequence(rng: random.Random, cache: KvCache, sampling: SamplingParams, cached: int, more: int) -> Any:
    tokens = [rng.randrange(VOCAB) for _ in range(cached + more)]
    stops = (rng.randrange(4),) if rng.random() < 0.3 else ()
    request = SimpleNamespace(sampling=sampling, seed=rng.randrange(2**63), stop_tokens=stops, logprobs=NO_LOGPROBS)
    kv, begun = KvSequence(cache), rng.randint(1, cached + more)
    kv.extend(cached)
    processors = processors_of(sampling, tokens[:begun], tokens[begun:], stops, VOCAB)

    def cut(tokens: list[int]) -> tuple[list[int], bool]:
        return cut_at_stop(tokens, request.stop_tokens)

    mine = {"processors": processors, "kv": kv, "draft_session": None, "cut": cut}
    return SimpleNamespace(request=request, tokens=tokens, begun=begun, unscored=0, grammar=None, **mine)


def setting(seed: int) -> Setting:
    rng, cache = random.Random(seed), KvCache(1, 1, 1, 2000, torch.int8, torch.device("cpu"))
    decoding = [sequence(rng, cache, rng.choice(SAMPLINGS), rng.randint(1, 30), 1) for _ in range(rng.randint(0, 6))]
    prefilling = [(sequence(rng, cache, rng.choice(SAMPLINGS), rng.randint(0, 9), 8), rng.choice([5, 8])) for _ in range(rng.randint(0, 2))]
    trees = [tree_of(rng) for _ in decoding]
    places = [place for place, tree in enumerate(trees) if len(tree)]
    counts = [len(tree) for tree in trees]
    nodes, none = sum(counts), [0.0] * len(trees)
    of_drafter = [rng.randint(0, count) for count in counts]
    selected = Selected([trees[place] for place in places], places, np.arange(nodes), counts, none, of_drafter, nodes=nodes)
    return Setting(StepPlan(decoding, prefilling), trees, selected, cache)


def paths(tree: TokenTree) -> list[list[int]]:
    return [tree.path(node) for node in range(ROOT, len(tree))]


def one_at_a_time(it: Setting, logits: torch.Tensor) -> list[int]:
    """The token of each row by itself."""
    rows: list[tuple[Any, TypingSequence[int]]] = [(s, p) for s, tree in zip(it.plan.decoding, it.trees, strict=True) for p in paths(tree)]
    rows += [(s, ()) for s, count in it.plan.prefilling if len(s.kv) == len(s.tokens)]
    assert len(rows) == len(logits)
    chosen = []
    for row, (s, path) in enumerate(rows):
        output = [*s.tokens[s.begun :], *path]
        processors = processors_of(s.request.sampling, s.tokens[: s.begun], output, s.request.stop_tokens, VOCAB)
        one = Rows(s.request.sampling, s.request.seed, [len(s.tokens) + len(path)], processors=processors)
        chosen += choose(logits[row : row + 1], [one])
    return chosen


@pytest.mark.parametrize("seed", range(60))
def test_all_at_once_equals_one_at_a_time(seed: int) -> None:
    it, verification = setting(seed), Verification(None)
    before = [list(s.kv.slots) for s in it.plan.decoding]
    batch = verification.prepare(it.plan, it.selected)
    held = [list(s.kv.slots) for s in it.plan.decoding]
    check_segments(it, batch.segments, before)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(sum(len(segment.outputs) for segment in batch.segments), VOCAB, generator=generator)
    logits[:, :4] += 3
    step = Step(it.plan, it.selected, batch, 0.0)
    choices = verification.choose(step, logits)
    assert choices.tolist() == one_at_a_time(it, logits)

    walks, first = verification.walk(step, choices), 0
    accepted_sources: list[int] = []
    for place, (s, tree) in enumerate(zip(it.plan.decoding, it.trees, strict=True)):
        w, mine = walks.walked[place], choices[first : first + 1 + len(tree)]
        first += 1 + len(tree)
        path, bonus = walk(tree, mine[0], mine[1:])
        tokens = [*(tree.tokens[node] for node in path), bonus]
        stop = next((i + 1 for i, token in enumerate(tokens) if token in s.request.stop_tokens), len(tokens))
        tokens, path = tokens[:stop], path[:stop]
        accepted_sources += [tree.sources[node] for node in path]
        assert (w.sequence, w.tokens, w.verified, w.accepted) == (s, tokens, len(tree), len(path))
        assert w.of_drafter == sum(node < it.selected.of_drafter[place] for node in path)
        assert w.more == ((path[-1] if path else ROOT) in tree.parents)
        root = len(before[place])
        assert list(s.kv.slots) == [*held[place][: root + 1], *(held[place][root + 1 + node] for node in path)]
    prompted = [s for s, count in it.plan.prefilling if len(s.kv) == len(s.tokens)]
    assert [(w.sequence, w.tokens) for w in walks.walked[len(it.trees) :]] == [(s, [choices[first + i]]) for i, s in enumerate(prompted)]
    assert sum(walks.verified.values()) == it.selected.nodes
    assert walks.accepted == {source: accepted_sources.count(source) for source in set(accepted_sources)}
    used = [slot for s in (*it.plan.decoding, *(s for s, _ in it.plan.prefilling)) for slot in s.kv.slots]
    assert len(used) == len(set(used)) == it.cache.allocator.count - it.cache.allocator.free_count
    it.cache.allocator.check_integrity()


def check_segments(it: Setting, segments: Any, before: list[list[int]]) -> None:
    for segment, s, tree, slots in zip(segments, it.plan.decoding, it.trees, before, strict=False):
        root, depths = len(slots), tree.depths()
        assert list(segment.tokens) == [s.tokens[-1], *tree.tokens]
        assert list(segment.positions) == [root, *(root + depth for depth in depths)]
        assert list(segment.prefix) == [root + 1] * (1 + len(tree))
        assert list(segment.outputs) == list(range(1 + len(tree)))
        assert segment.kv is s.kv
        assert list(s.kv.slots[:root]) == slots
        lines = [sorted(ancestors(tree, node)) for node in range(len(tree))]
        assert segment.lines is None if not len(tree) else list(segment.lines) == [[], *([root + 1 + at for at in line] for line in lines)]
    for segment, (s, count) in zip(segments[len(it.trees) :], it.plan.prefilling, strict=True):
        assert list(segment.positions) == list(range(len(s.kv) - count, len(s.kv)))
        assert list(segment.tokens) == s.tokens[len(s.kv) - count : len(s.kv)]
        assert list(segment.outputs) == ([count - 1] if len(s.kv) == len(s.tokens) else [])


def ancestors(tree: TokenTree, node: int) -> list[int]:
    return [] if node == ROOT else [*ancestors(tree, tree.parents[node]), node]


def test_a_path_ends_with_a_stop_token() -> None:
    rng, cache = random.Random(0), KvCache(1, 1, 1, 99, torch.int8, torch.device("cpu"))
    s, chain = sequence(rng, cache, SAMPLINGS[0], 5, 1), TokenTree([11, 12, 13], [ROOT, 0, 1], [1.0] * 3, [0] * 3)
    s.request.stop_tokens = (12,)
    plan, selected = StepPlan([s], []), Selected([chain], [0], np.arange(3), [3], [1.0], [3], nodes=3)
    verification = Verification(None)
    step = Step(plan, selected, verification.prepare(plan, selected), 0.0)
    [walked] = verification.walk(step, np.array([11, 12, 13, 14])).walked
    assert (walked.tokens, walked.accepted, walked.of_drafter, walked.more) == ([11, 12], 2, 2, True)
    assert len(s.kv) == 5 + 1 + 2
