"""Attention over KV slots against its plain definition: who sees whom, token by token and head by head."""

import random

import pytest
import torch

from drafthouse.engine.attention.layout import layout_of
from drafthouse.engine.attention.reference import ReferenceAttention
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.packed_step import tree_step
from drafthouse.engine.segment import Segment, chunk
from drafthouse.token_tree import ROOT, TokenTree

KV_HEADS, HEADS, DIM, SLOTS = 2, 4, 8, 64
WINDOW = 4


def random_rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bush(rng: random.Random, nodes: int) -> TokenTree:
    """A tree as deep as the window and deeper, and with siblings, so that a node's index says nothing of its position."""
    tree = TokenTree()
    for token in range(nodes):
        tree.add(token, rng.randint(max(ROOT, token - 3), token - 1), 0.5, 0)
    return tree


def seen_by(segment: Segment, query: int, tree: TokenTree, window: int | None) -> list[int]:
    """Entries of the segment's KV that its token `query` sees: committed ones and its own line, within the window."""
    committed = len(segment.kv) - len(segment)
    line = [query]
    if len(tree):
        while line[0] > 0:
            line.insert(0, tree.parents[line[0] - 1] + 1)
    else:
        line = list(range(query + 1))
    positions = list(range(committed + len(line)))
    entries = [*range(committed), *(committed + i for i in line)]
    return [e for e, p in zip(entries, positions, strict=True) if window is None or p > positions[-1] - window]


def plainly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """One query `[HEADS, DIM]` over the entries that it sees, `[KV_HEADS, entries, DIM]`."""
    heads = []
    for head in range(HEADS):
        group = head // (HEADS // KV_HEADS)
        weights = k[group] @ q[head] / DIM**0.5
        if softcap is not None:
            weights = softcap * torch.tanh(weights / softcap)
        heads.append(weights.softmax(0) @ v[group])
    return torch.stack(heads)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, WINDOW])
def test_each_token_sees_its_line_within_the_window(window: int | None, softcap: float | None) -> None:
    """Chunks, lone tokens and trees of several sequences in one step, after prompts of every length about the window's."""
    for seed in range(20):
        rng, cache = random.Random(seed), KvCache(1, KV_HEADS, DIM, SLOTS, torch.float64, torch.device("cpu"))
        cache.data[:] = random_rows(seed, *cache.data.shape)
        segments, trees = [], []
        for i in range(3):
            kv, committed = KvSequence(cache), rng.randint(0, WINDOW + 2)
            kv.extend(committed)
            tree = bush(rng, rng.choice([0, 0, 9])) if i else TokenTree()
            count = rng.randint(1, 3)
            segments.append(tree_step(kv, 0, tree) if i else chunk(kv, [0] * count, committed, want_logits=True))
            trees.append(tree)
        check(cache, segments, trees, window, softcap, seed)


def check(
    cache: KvCache, segments: list[Segment], trees: list[TokenTree], window: int | None, softcap: float | None, seed: int
) -> None:  # fmt: skip
    tokens = sum(map(len, segments))
    q, k, v = (random_rows(seed + i, 1, heads, tokens, DIM) for i, heads in ((1000, HEADS), (2000, KV_HEADS), (3000, KV_HEADS)))
    found = ReferenceAttention().begin(cache, layout_of(segments)).attend(0, q[0], k[0], v[0], None, window, softcap)
    first = 0
    for segment, tree in zip(segments, trees, strict=True):
        new = segment.kv.slots[len(segment.kv) - len(segment) :]
        assert torch.equal(cache.data[0, 0][:, new], k[0, :, first : first + len(segment)])
        assert torch.equal(cache.data[0, 1][:, new], v[0, :, first : first + len(segment)])
        for query in range(len(segment)):
            slots = [segment.kv.slots[entry] for entry in seen_by(segment, query, tree, window)]
            wanted = plainly(q[0, :, first + query], cache.data[0, 0][:, slots], cache.data[0, 1][:, slots], softcap)
            torch.testing.assert_close(found[first + query], wanted, msg=f"seed {seed}, query {query} of {tree.parents}")
        first += len(segment)


def test_slots_that_only_begin_and_end_like_a_run_are_written_one_by_one() -> None:
    """Three lone tokens in slots s, t, s + 2 with t elsewhere: keys and values must not go to s + 1."""
    cache = KvCache(1, KV_HEADS, DIM, 8, torch.float64, torch.device("cpu"))
    sequences = [KvSequence(cache) for _ in range(8)]
    by_slot = {}
    for i, kv in enumerate(sequences):
        kv.extend(1)
        by_slot[kv.slots[0]] = sequences[i]
    segments = [Segment(by_slot[slot], [0], [0], [0], [1]) for slot in (2, 7, 4)]
    check(cache, segments, [TokenTree()] * 3, None, None, 0)
