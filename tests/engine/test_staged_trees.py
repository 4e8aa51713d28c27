"""What the draft has ranked, whoever else drafts beside it or guesses ahead of it, is what it ranks by itself; and its KV is right.

The exactness of texts cannot show this: a draft that runs on wrong entries only drafts worse.
"""

import random
from typing import Any

import pytest
import torch

from drafter.engine import DrafterEngine
from drafter.session import Session
from drafthouse.choose import rank
from drafthouse.config.serving import DrafterConfig
from drafthouse.policy.latency import LatencyModel
from drafthouse.sampling import SamplingParams
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.session_messages import Commit, Grow
from tests.engine.pairs import FAST, GREEDY, prompts
from tests.engine.scripted import CONTEXT, VOCAB_SIZE, ScriptedRunner, _row, draft_logits, stored
from tests.engine.test_drafter_engine import WIDE, opening, run, words
from tests.unit.latencies import Table

SAMPLED = SamplingParams(temperature=0.9, top_k=12, repetition_penalty=1.2)
GUESSING = {"kind": "tests.engine.own_stages:Counting"}
"""One in four of its tokens is among the draft's best four of sixteen."""
STAGED = [{"kind": "model", "inner": GUESSING}]
MERGED = [{"kind": "lookup"}, {"kind": "suffix"}, *STAGED]
FEW = Table([1e-5] * 6 + [2e-5])
"""Passes over five nodes mostly; further ones cost as much together as another pass, so that guesses pay."""


def scripted(stages: list[dict[str, Any]], ahead: bool = True, latency: LatencyModel = FEW) -> DrafterEngine:
    model = ScriptedRunner(draft_logits, 1000, lambda: None).as_loaded()
    config = DrafterConfig.model_validate({"stages": stages, "prefill_tokens": 16})
    return DrafterEngine(model, latency, config, WIDE.model_copy(update={"grow_during_verification": ahead}))


def check(session: Session) -> int:
    """Its KV and every ranking of the draft; returns how many there are."""
    root, growing = len(session.tokens) - 1, session.growing
    tokens = session.tokens[: session.cached] + [growing.tree.tokens[i] for i in session.expanded]
    assert stored(session.kv) == (tokens, [*range(session.cached), *(root + growing.depths[i] for i in session.expanded)])
    ranked = 0
    for node, by_source in growing.rankings.items():
        if 0 in by_source:
            path = (*session.tokens, *growing.tree.path(node))
            [wanted], _ = rank(torch.tensor([draft_logits(path)], dtype=torch.float64), [_row(path, session.sampling, session.seed)], 4)
            assert list(by_source[0].tokens) == wanted
            assert node == ROOT or node in session.expanded
            ranked += 1
    return ranked


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("stages", [STAGED, MERGED])
def test_whatever_is_committed_the_draft_ranks_what_it_would_alone(stages: list[dict[str, Any]], sampling: SamplingParams) -> None:
    rng, engine = random.Random(2), scripted(stages)
    tokens = prompts(1, vocab_size=VOCAB_SIZE, longest=8)[0]
    engine.handle("v", opening("s", tokens, sampling))
    session, ranked = engine.sessions["v", "s"], 0
    while len(session.tokens) < CONTEXT - 6:
        for _ in range(rng.randrange(4)):
            engine.run_pass()
            ranked += check(session)
        tree = session.tree
        path = tree.path(rng.randrange(len(tree)))[: rng.randint(1, 3)] if len(tree) else []
        more = path if path and rng.random() < 0.7 else [*path, rng.randrange(VOCAB_SIZE)]
        engine.handle("v", Commit("s", 1, len(session.tokens), tuple(more), 0.0))
        check(session)
    assert ranked > 20
    assert engine.totals.came_true > 5
    assert engine.totals.guessed > engine.totals.came_true, "and wrong guesses were taken back"


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_staged_tree_is_the_drafts_own_in_fewer_passes(sampling: SamplingParams) -> None:
    trees, passes = [], []
    for stages in ([{"kind": "model"}], STAGED):
        engine = scripted(stages, ahead=False, latency=FAST)
        assert engine.draft is not None
        engine.draft.budget = engine.draft.budget._replace(tokens=1)
        engine.handle("v", opening("s", [1, 2, 3], sampling))
        run(engine)
        trees.append(words(engine.sessions["v", "s"].tree))
        passes.append(engine.totals.passes)
    assert trees[0] == pytest.approx(trees[1])
    assert passes[1] < passes[0]


def test_the_verifier_hears_of_edges_that_change() -> None:
    """Lookup goes first; what the draft ranks beside it changes the edges of what was sent."""
    engine = scripted([{"kind": "lookup"}, {"kind": "model"}])
    theirs = TokenTree()
    snapshots = 0
    out = engine.handle("v", opening("s", [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]))
    while True:
        for _, message in out:
            if isinstance(message, Grow):
                snapshots += message.first_node == 0
                n, kept = message.nodes, theirs.subtree(range(message.first_node))
                theirs = TokenTree(kept.tokens + n.tokens, kept.parents + n.parents, kept.edges + n.edges, kept.sources + n.sources)
                assert theirs == engine.sessions["v", "s"].tree
        if not engine.has_work():
            break
        out = engine.run_pass()
    assert {0, 2} <= set(theirs.sources)
    assert snapshots > 1
