"""How a drafter grows its trees: fresh, within limits, worth their price, and one session apart from another."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from drafter.engine import DrafterEngine, Outgoing
from drafthouse.config.serving import DrafterConfig, TreeConfig
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.latency import LatencyModel
from drafthouse.sampling import SamplingParams
from drafthouse.token_tree import TokenTree
from drafthouse.wire.session_messages import Close, Commit, Dropped, Grow, Hold, Open, Opened, ToVerifierMessage
from tests.engine.pairs import FAST, GREEDY, STEEP, loaded, pair, prompts, request
from tests.engine.scripted import CONTEXT, VOCAB_SIZE, ScriptedRunner, draft_logits
from tests.engine.tiny_models import tiny

SAMPLED = SamplingParams(temperature=0.9, top_k=12, repetition_penalty=1.2)
WIDE = TreeConfig(max_nodes=200, max_depth=3, width=4)
"""Room for all of 4 + 16 + 64 nodes."""
Words = dict[tuple[int, ...], float]


def scripted(
    slots: int = 1000, config: DrafterConfig | None = None, tree: TreeConfig = WIDE, latency: LatencyModel = FAST
) -> DrafterEngine:
    model = ScriptedRunner(draft_logits, slots, lambda: None).as_loaded()
    return DrafterEngine(model, latency, config or DrafterConfig(), tree)


def opening(
    name: str, tokens: Sequence[int], sampling: SamplingParams = GREEDY, min_confidence: float = 0.0, vocab: int = VOCAB_SIZE
) -> Open:
    return Open(name, 1, tuple(tokens), sampling, 5, NOISE_VERSION, "f", WIDE.max_nodes, WIDE.max_depth, min_confidence, vocab)


def close_all(engine: DrafterEngine) -> None:
    for peer, name in list(engine.sessions):
        engine.handle(peer, Close(name, 1))
    allocator = engine.cache.allocator
    allocator.check_integrity()
    assert (allocator.free_count, engine.admission.reserved_slots) == (allocator.count, 0), "KV slots leaked"


def run(engine: DrafterEngine) -> list[ToVerifierMessage]:
    out: list[Outgoing] = []
    while engine.has_work():
        out += engine.run_pass()
    return [message for _, message in out]


def words(tree: TokenTree) -> Words:
    """The tree as its paths and their edges, whatever the order of its nodes."""
    return {tuple(tree.path(node)): tree.edges[node] for node in range(len(tree))}


def grown(engine: DrafterEngine, message: Open) -> Words:
    assert isinstance(engine.handle("v", message)[0][1], Opened)
    run(engine)
    return words(engine.sessions["v", message.session_id].tree)


def tree_of(engine: DrafterEngine, name: str = "s") -> TokenTree:
    return engine.sessions["v", name].tree


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_after_any_commits_the_tree_is_the_one_a_fresh_drafter_grows(sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real model in float64, of a drafter that does not learn meanwhile: what was not worth it before a commit may be now."""
    monkeypatch.setattr(Calibration, "observe", lambda *_: None)
    rng, draft = random.Random(1), loaded(tiny("llama", layers=1))
    engine = DrafterEngine(draft, FAST, DrafterConfig(prefill_tokens=16), WIDE)
    tokens = prompts(1, longest=20)[0]
    engine.handle("v", opening("s", tokens, sampling, vocab=256))
    for commit in range(24):
        for _ in range(rng.randrange(5)):  # the commit may come before the tree is whole, or even begun
            engine.run_pass()
        tree = tree_of(engine)
        path = tree.path(rng.randrange(len(tree)))[: rng.randint(1, 2)] if len(tree) else []
        more = path if path and rng.random() < 0.7 else [*path, rng.randrange(256)]
        engine.handle("v", Commit("s", 1, len(tokens), tuple(more), 0.0))
        tokens = tokens + more
        if commit % 3 == 2:
            run(engine)
            fresh = DrafterEngine(draft, FAST, DrafterConfig(), WIDE)
            wanted = grown(fresh, opening("s", tokens, sampling, vocab=256))
            fresh.forget_peer("v")
            assert 10 < len(wanted) < 84, "some are not worth it"
            assert words(tree_of(engine)) == pytest.approx(wanted), f"after commit {commit}"


def test_sessions_side_by_side_grow_the_same_trees_as_alone() -> None:
    messages = [
        replace(opening(f"s{i}", tokens, SAMPLED if i % 2 else GREEDY, min_confidence=0.02), seed=i)
        for i, tokens in enumerate(prompts(6, vocab_size=VOCAB_SIZE))
    ]
    together = scripted(2000, config=DrafterConfig(prefill_tokens=32), latency=STEEP)
    for message in messages:
        together.handle("v", message)
    run(together)
    for message in messages:
        alone = grown(scripted(), message)
        assert len(alone) > 5
        assert words(tree_of(together, message.session_id)) == pytest.approx(alone)


def test_a_pass_takes_first_what_the_verifier_says_is_worth_most() -> None:
    """Equal sessions of which a pass has room for 16 nodes: the one that is worth more grows first, and a commit may change which."""
    engine, names = scripted(2000, config=DrafterConfig(prefill_tokens=16)), "abcdef"
    tokens = prompts(1, vocab_size=VOCAB_SIZE, shortest=4, longest=4)[0]

    def ahead() -> str:
        """The session that is far ahead of all others after three passes."""
        for _ in range(3):
            engine.run_pass()
        expanded = {name: len(engine.sessions["v", name].expanded) for name in names}
        first = max(expanded, key=expanded.__getitem__)
        assert expanded[first] > 1.5 * max(count for name, count in expanded.items() if name != first), expanded
        return first

    for name in names:
        engine.handle("v", replace(opening(name, tokens), worth=4.0 if name == "f" else 1.0))
    assert ahead() == "f"
    for name in names:
        engine.handle("v", Commit(name, 1, len(tokens), (1,), 0.0, worth=4.0 if name == "e" else 1.0))
    assert ahead() == "e"
    close_all(engine)


def test_growth_stops_at_the_sessions_limits() -> None:
    for nodes, depth in [(1, 3), (7, 3), (200, 1), (200, 2)]:
        engine = scripted()
        grown(engine, replace(opening("s", [1, 2, 3]), max_nodes=nodes, max_depth=depth))
        tree = tree_of(engine)
        assert len(tree) <= nodes
        assert max(tree.depths()) <= depth
        assert len(tree) == nodes or max(tree.depths()) == depth, "and it does get there"


def test_nodes_never_lie_beyond_the_drafts_context() -> None:
    for left in (1, 2, 3):
        engine = scripted()
        grown(engine, opening("s", [1] * (CONTEXT - left)))
        assert max(tree_of(engine).depths()) == left


def test_the_price_stops_growth() -> None:
    sizes = {}
    for least in (0.0, 0.05, 0.2, 1.5):
        engine = scripted(tree=WIDE.model_copy(update={"grow_during_verification": False}))
        grown(engine, opening("s", [1, 2, 3], min_confidence=least))
        sizes[least] = len(tree_of(engine))
        assert all(confidence >= least for confidence in tree_of(engine).path_confidences())
    assert sizes[0.0] > sizes[0.05] > sizes[0.2] > sizes[1.5] == 0
    assert engine.totals.passes == 1, "only the catch-up: nothing else is worth a pass"


def test_ahead_of_the_price_it_grows_only_where_the_commit_may_land() -> None:
    sizes = {}
    for least in (0.05, 0.2, 0.99, 1.5):
        for ahead in (False, True):
            engine = scripted(tree=WIDE.model_copy(update={"grow_during_verification": ahead}))
            grown(engine, opening("s", [1, 2, 3], min_confidence=least))
            sizes[least, ahead] = len(tree_of(engine))
            if not ahead:
                assert engine.sessions["v", "s"].frontier.ahead == []
    assert all(sizes[least, True] > sizes[least, False] for least in (0.05, 0.2))
    assert sizes[0.99, True] <= WIDE.width, "what the commit may land on, but nothing below it: that would not be worth its price"
    assert sizes[1.5, True] == 0


def test_on_hold_it_catches_up_and_does_not_draft_until_the_commit() -> None:
    engine = scripted(config=DrafterConfig(prefill_tokens=16))
    engine.handle("v", opening("s", [1] * 40))
    engine.handle("v", Hold("s", 1))
    passes = 0
    while engine.has_work():
        engine.run_pass()
        passes += 1
    assert passes == 3, "prompt chunks"
    size = len(tree_of(engine))
    assert 0 < size <= WIDE.width, "what the last of them ranked, and nothing below it"
    engine.handle("v", Hold("s", 0))
    engine.handle("v", Commit("s", 1, 40, (tree_of(engine).tokens[0],), 0.0))
    run(engine)
    assert len(tree_of(engine)) > size


def test_a_commit_brings_a_new_price() -> None:
    engine = scripted()
    grown(engine, opening("s", [1, 2, 3], min_confidence=2.0))
    engine.handle("v", Commit("s", 1, 3, (4,), 0.05))
    run(engine)
    assert len(tree_of(engine)) > 3
    engine.handle("v", Commit("s", 1, 4, (4,), 2.0))
    run(engine)
    assert len(tree_of(engine)) == 0


def test_what_a_commit_pruned_is_not_run() -> None:
    engine = scripted()
    engine.handle("v", opening("s", [1, 2, 3]))
    engine.run_pass()
    engine.handle("v", Commit("s", 1, 3, (tree_of(engine).tokens[0],), 0.0))
    assert engine.sessions["v", "s"].frontier == ([], []), "the root has changed: its siblings and their children are gone"


def test_an_announcement_says_whether_more_is_to_come() -> None:
    engine = scripted()
    messages = [message for _, message in engine.handle("v", opening("s", [1, 2, 3]))] + run(engine)
    grows = [m for m in messages if isinstance(m, Grow)]
    assert all(g.next_pass_eta_us > 0 and g.next_pass_expected_tokens > 0 for g in grows[:-1])
    assert (grows[-1].next_pass_eta_us, grows[-1].next_pass_expected_tokens) == (0, 0.0)
    joined = TokenTree()
    for g in grows:
        assert g.first_node == len(joined), "every node is sent once, in order"
        for i, token in enumerate(g.nodes.tokens):
            joined.add(token, g.nodes.parents[i], g.nodes.edges[i], g.nodes.sources[i])
    assert joined == tree_of(engine)


def test_when_kv_slots_run_out_only_that_session_is_dropped() -> None:
    engine = scripted(slots=42, tree=TreeConfig(max_nodes=10, max_depth=3, width=4))  # admits by 10 nodes, but they may grow 200
    for name in ("a", "b", "c"):
        assert isinstance(engine.handle("v", opening(name, [1, 2, len(name)]))[0][1], Opened)
    messages = run(engine)
    dropped = [m.session_id for m in messages if isinstance(m, Dropped)]
    assert 1 <= len(dropped) <= 2
    assert {name for _, name in engine.sessions} == {"a", "b", "c"} - set(dropped)
    alone = scripted()
    for _, name in engine.sessions:
        assert words(tree_of(engine, name)) == pytest.approx(grown(alone, opening(name, [1, 2, len(name)])))
    engine.forget_peer("v")
    engine.cache.allocator.check_integrity()
    assert engine.cache.allocator.free_count == 42


@pytest.mark.parametrize(
    ("base_len", "tokens", "reason"),
    [(4, (1,), "commit at 4"), (2, (1,), "commit at 2"), (3, (VOCAB_SIZE,), "token 16"), (3, (1,) * 61, "context")],
)
def test_a_commit_that_cannot_be_followed_drops_its_session_alone(base_len: int, tokens: tuple[int, ...], reason: str) -> None:
    engine = scripted()
    for name in ("a", "b"):
        grown(engine, opening(name, [1, 2, 3]))
    [(_, answer)] = engine.handle("v", Commit("a", 1, base_len, tokens, 0.0))
    assert isinstance(answer, Dropped)
    assert reason in answer.reason
    assert list(engine.sessions) == [("v", "b")]
    engine.handle("v", Close("b", 1))
    assert engine.cache.allocator.free_count == 1000


def test_who_commits_to_a_session_that_is_not_here_hears_of_it() -> None:
    """As when its Open was lost with a stream: otherwise the verifier would wait for its trees."""
    engine = scripted()
    grown(engine, replace(opening("s", [1, 2, 3]), epoch=4))
    assert engine.handle("v", Commit("t", 4, 3, (1,), 0.0)) == [("v", Dropped("t", 4, "no such session"))]
    assert engine.handle("w", Commit("s", 4, 3, (1,), 0.0)) == [("w", Dropped("s", 4, "no such session"))], "another peer's"
    assert engine.handle("v", Commit("s", 5, 3, (1,), 0.0)) == [("v", Dropped("s", 5, "no such session"))]
    assert (list(engine.sessions), engine.totals.dropped) == ([("v", "s")], 0)


def test_messages_of_an_older_epoch_and_an_unknown_sessions_end_are_ignored() -> None:
    engine = scripted()
    grown(engine, replace(opening("s", [1, 2, 3]), epoch=4))
    before = words(tree_of(engine))
    for message in (Commit("s", 3, 3, (1,), 0.0), Close("s", 3), Close("t", 4), opening("s", [9]), replace(opening("s", [9]), epoch=4)):
        assert engine.handle("v", message) == []
    assert engine.handle("w", Close("s", 4)) == [], "another peer's session of the same name"
    assert words(tree_of(engine)) == before
    assert len(engine.handle("v", replace(opening("s", [9]), epoch=5))) == 2
    assert engine.sessions["v", "s"].tokens == [9]


def test_a_fixed_tree_larger_than_the_configured_one_arrives_whole() -> None:
    """The verifier must not take what it asked for itself for a malformed message."""
    both = pair(loaded(tiny("llama", layers=1)), [loaded(tiny("llama", layers=1))], tree=TreeConfig(max_nodes=4, width=8))
    both.generate([request("a", [1, 2, 3], 12, SamplingParams(1.0), mode="fixed", nodes=40, depth=4)])
    assert both.verifier.draft_sessions.events.malformed == 0
    assert both.verifier.totals.verified >= 40
