"""The windowed draft KV: what the draft still sees of a long context, and what it frees."""

import pytest
import torch

from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.segment import Lines, Segment, chunk
from drafthouse.noise import NOISE_VERSION
from drafthouse.wire.session_messages import Commit, Open
from tests.engine.pairs import FAST, GREEDY, loaded, prompts
from tests.engine.test_drafter_engine import WIDE, run, tree_of, words
from tests.engine.tiny_models import tiny


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_what_is_left_is_seen_at_its_own_position(name: str) -> None:
    """One layer, so that keys of the tokens left do not depend on those that went; mistral's own window must look at positions."""
    model = loaded(tiny(name, layers=1))
    tokens, sinks, gone = list(range(10, 40)), 3, 14
    kv = KvSequence(model.runner.cache)
    model.runner.run([chunk(kv, tokens[:-1], 0, want_logits=False)])
    kv.cut(sinks, gone)
    kv.extend(1)
    windowed = model.runner.run([Segment(kv, tokens[-1:], [29], [0], [len(kv)], sinks=sinks, skipped=gone)]).logits
    whole = KvSequence(model.runner.cache)
    whole.extend(30)
    prefix = [*range(1, 30), sinks]
    lines: list[list[int]] = [*[[]] * 29, list(range(sinks + gone, 30))]
    without_them = model.runner.run([Segment(whole, tokens, range(30), [29], prefix, Lines.of(lines))]).logits
    assert torch.allclose(windowed, without_them, rtol=1e-9, atol=1e-9)
    unwindowed = model.runner.run([Segment(_filled(whole), tokens, range(30), [29], range(1, 31))]).logits
    assert name == "mistral" or not torch.allclose(windowed, unwindowed, rtol=1e-3), "the window must change something"
    kv.release()
    model.runner.cache.allocator.check_integrity()


def _filled(kv: KvSequence) -> KvSequence:
    other = KvSequence(kv.cache)
    other.extend(30)
    return other


def opening(tokens: list[int]) -> Open:
    return Open("s", 1, tuple(tokens), GREEDY, 5, NOISE_VERSION, "f", WIDE.max_nodes, WIDE.max_depth, 0.0, 256)


def drafter(window: dict[str, int] | None) -> DrafterEngine:
    config = DrafterConfig.model_validate({"window": window, "prefill_tokens": 16})
    return DrafterEngine(loaded(tiny("llama", layers=1)), FAST, config, WIDE)


def test_a_window_wider_than_the_text_changes_nothing() -> None:
    trees = []
    for window in (None, {"sinks": 4, "recent": 500}):
        engine = drafter(window)
        engine.handle("v", opening(prompts(1, longest=40)[0]))
        run(engine)
        trees.append(words(tree_of(engine)))
    assert trees[0] == pytest.approx(trees[1])


def test_committed_tokens_beyond_the_window_give_their_slots_back() -> None:
    engine = drafter({"sinks": 4, "recent": 8})
    tokens = prompts(1, shortest=90, longest=90)[0]
    engine.handle("v", opening(tokens))
    run(engine)
    session = engine.sessions["v", "s"]
    for token in range(20):
        assert session.held == 12
        assert len(session.kv) == 12 + len(session.expanded)
        more = (session.tree.tokens[0], token)
        engine.handle("v", Commit("s", 1, len(session.tokens), more, 0.0))
        run(engine)
    assert session.cached == len(session.tokens) == 130
    assert session.skipped == 118
    engine.forget_peer("v")
    assert engine.cache.allocator.free_count == engine.cache.allocator.count
