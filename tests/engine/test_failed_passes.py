"""A draft pass that raises: the session that is its cause is dropped, the others start anew and grow the trees that they would have."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from drafter.engine import DrafterEngine, Outgoing
from drafter.fault_isolation import CULPRIT_S
from drafter.pass_loop import PassLoop
from drafthouse.config.serving import DrafterConfig, WindowConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.wire.session_messages import Close, Commit, Dropped, Grow, Opened, Refused
from tests.engine.pairs import FAST, loaded
from tests.engine.scripted import VOCAB_SIZE, ScriptedRunner, draft_logits
from tests.engine.test_drafter_engine import WIDE, close_all, grown, opening, scripted, tree_of, words
from tests.engine.tiny_models import tiny

POISON = 9
LONG = [1, 2, 3] * 8
CONFIG = DrafterConfig(prefill_tokens=16)


class Failing:
    """An engine and its loop, without a thread; sessions share KV. Passes for which `broken` is true raise, when their KV is half
    written; `sizes` are their segments."""

    def __init__(self, broken: Callable[[list[Segment]], bool], config: DrafterConfig = CONFIG, model: LoadedModel | None = None):
        model = model or ScriptedRunner(draft_logits, 1000, lambda: None).as_loaded()
        self.runner, self.broken, self.now = model.runner, broken, 0.0
        self.runner.cache.share_prefixes()
        self._run, self.runner.run = self.runner.run, self.run  # type: ignore[method-assign]
        self.engine = DrafterEngine(model, FAST, config, WIDE, lambda: self.now)
        self.said: list[Outgoing] = []
        self.loop = PassLoop(self.engine, self.said.extend, lambda: None, 60.0)
        self.sizes: list[int] = []

    def run(self, segments: list[Segment]) -> RunResult:
        self.sizes.append(len(segments))
        result = self._run(segments)
        if self.broken(segments):
            spoilt = segments[-1].kv
            assert isinstance(spoilt, KvSequence)
            self.runner.cache.data[:, :, :, spoilt.slots[spoilt.shared :]] = -7  # of entries that were there before, too
            raise RuntimeError("out of memory")
        return result

    def open(self, name: str, tokens: list[int], vocab: int = VOCAB_SIZE) -> None:
        assert isinstance(self.engine.handle("v", opening(name, tokens, vocab=vocab))[0][1], Opened)

    def rounds(self) -> None:
        for _ in range(200):
            if not self.loop._round():
                return
        raise AssertionError("it never comes to rest")

    def dropped(self) -> list[str]:
        return [message.session_id for _, message in self.said if isinstance(message, Dropped)]

    def check_trees(self, **tokens: list[int]) -> None:
        assert sorted(name for _, name in self.engine.sessions) == sorted(tokens)
        for name, committed in tokens.items():
            assert words(tree_of(self.engine, name)) == pytest.approx(grown(scripted(config=CONFIG), opening(name, committed))), name


def poisoned(segments: list[Segment]) -> bool:
    """The last part of a long catch-up does not fit."""
    return any(segment.lines is None and POISON in segment.tokens for segment in segments)


def test_only_the_cause_of_a_failed_pass_is_dropped() -> None:
    it = Failing(poisoned)
    it.open("a", [1, 2, 3])
    it.open("b", [4, 5])
    it.loop._round()
    it.loop._round()
    it.open("bad", [*LONG, POISON, 1])
    it.rounds()
    assert it.dropped() == ["bad"]
    assert it.loop.faults == 2, "once with others, once alone"
    it.check_trees(a=[1, 2, 3], b=[4, 5])
    close_all(it.engine)


def test_a_session_in_no_failed_pass_keeps_its_tree() -> None:
    it = Failing(poisoned)
    it.open("a", [1, 2, 3])
    it.rounds()
    before, cached = tree_of(it.engine, "a"), it.engine.sessions["v", "a"].kv_tokens
    it.open("bad", [1, POISON, 1])
    it.rounds()
    assert (it.dropped(), it.loop.faults) == (["bad"], 1)
    assert tree_of(it.engine, "a") is before
    assert it.engine.sessions["v", "a"].kv_tokens == cached
    it.check_trees(a=[1, 2, 3])


def test_a_fault_that_is_nobodys_drops_nobody() -> None:
    """As when one large pass does not fit into memory."""
    it = Failing(lambda _: len(it.sizes) > 3 and it.sizes[-1] == 2 and not it.loop.faults)
    it.open("a", [1, 2, 3])
    it.open("b", [4, 5])
    it.rounds()
    assert (it.dropped(), it.loop.faults) == ([], 1)
    it.check_trees(a=[1, 2, 3], b=[4, 5])
    close_all(it.engine)


def test_what_a_window_left_behind_is_run_again() -> None:
    """On a real model."""
    config = CONFIG.model_copy(update={"window": WindowConfig(sinks=2, recent=8)})
    model = [loaded(tiny("llama", layers=1)) for _ in range(2)]
    it = Failing(lambda _: len(it.sizes) > 3 and it.sizes[-1] == 2 and not it.loop.faults, config, model[0])
    plain = Failing(lambda _: False, config, model[1])
    for each in (it, plain):
        each.open("a", LONG, 256)
        each.open("b", [4, 5], 256)
        each.rounds()
        assert (each.dropped(), each.engine.sessions["v", "a"].skipped) == ([], len(LONG) - 10)
    assert (it.loop.faults, plain.loop.faults) == (1, 0)
    for name in "ab":
        assert words(tree_of(it.engine, name)) == pytest.approx(words(tree_of(plain.engine, name)))
    close_all(it.engine)


@pytest.mark.parametrize("others", ["", "bc"])
def test_what_a_failed_pass_may_have_spoilt_is_not_cached(others: str) -> None:
    it = Failing(lambda segments: any(segment.kv is bad.kv and segment.lines is not None for segment in segments))
    it.open("bad", LONG)
    for name in others:
        it.open(name, [*LONG, 5])
    bad = it.engine.sessions["v", "bad"]
    it.rounds()
    assert it.dropped() == ["bad"]
    found = it.engine.totals.cached_tokens
    it.open("later", [*LONG, 4])
    it.rounds()
    assert it.engine.totals.cached_tokens - found == (len(LONG) if others else 0)
    it.check_trees(later=[*LONG, 4], **{name: [*LONG, 5] for name in others})
    close_all(it.engine)


def test_what_was_cached_before_a_fault_is_run_again() -> None:
    it = Failing(lambda _: it.sizes[-1] == 2 and not it.loop.faults)
    it.open("old", LONG)
    it.rounds()
    it.engine.handle("v", Close("old", 1))
    it.open("a", [1, 2, 3])
    it.open("b", [4, 5])
    it.rounds()
    found = it.engine.totals.cached_tokens
    it.open("again", LONG)
    it.rounds()
    assert (it.loop.faults, it.engine.totals.cached_tokens - found) == (1, 3), "what a has computed since"
    it.check_trees(a=[1, 2, 3], b=[4, 5], again=LONG)


def test_after_the_fault_the_verifier_gets_the_whole_new_tree() -> None:
    it = Failing(lambda _: len(it.sizes) == 3)
    it.open("a", [1, 2, 3])
    it.open("b", [4, 5])
    it.loop._round()
    it.loop._round()
    assert any(isinstance(message, Grow) and len(message.nodes) for _, message in it.said), "it has nodes of the old one"
    del it.said[:]
    it.rounds()
    for name in "ab":
        grows = [message for _, message in it.said if isinstance(message, Grow) and message.session_id == name]
        assert (grows[0].first_node, sum(len(message.nodes) for message in grows)) == (0, len(tree_of(it.engine, name)))


def test_a_tree_that_makes_passes_fail_is_found_though_its_catch_up_does_not() -> None:
    it = Failing(lambda segments: any(segment.lines is not None and segment.kv is bad.kv for segment in segments))
    it.open("a", [1, 2, 3])
    it.open("bad", [4, 5])
    bad = it.engine.sessions["v", "bad"]
    it.rounds()
    assert it.dropped() == ["bad"]
    it.check_trees(a=[1, 2, 3])


def test_suspects_keep_nobody_waiting_however_fast_commits_come() -> None:
    it = Failing(lambda _: len(it.sizes) == 1)
    for name in "abc":
        it.open(name, [1, 2, 3])
    committed = 3
    for _ in range(1 + 2 * 3):
        it.loop._round()
        for name in "abc":
            it.engine.handle("v", Commit(name, 1, committed, (POISON,), 0.0))
        committed += 1
    it.loop._round()
    assert it.sizes == [3, 1, 1, 1, 1, 1, 1, 3], "two passes each, then together again"


def test_a_suspect_may_close() -> None:
    it = Failing(lambda _: len(it.sizes) == 1)
    for name in "abc":
        it.open(name, [1, 2, 3])
    it.loop._round()
    it.engine.handle("v", Close("a", 1))
    it.engine.forget_peer("w")
    it.rounds()
    it.check_trees(b=[1, 2, 3], c=[1, 2, 3])
    close_all(it.engine)


def test_a_device_that_fails_without_any_session_ends_the_loop() -> None:
    it = Failing(lambda _: True)
    it.open("a", [1, 2, 3])
    with pytest.raises(RuntimeError, match="out of memory"):
        it.rounds()
    assert it.sizes == [1, 1], "a pass, then one token of no session"
    close_all(it.engine)


def test_a_fault_before_the_pass_began_is_tried_one_by_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Failing(lambda _: False)
    it.open("a", [1, 2, 3])
    it.open("bad", [4, 5])
    bad, plan = it.engine.sessions["v", "bad"], it.engine.draft.budget.plan  # type: ignore[union-attr]

    class Budget:
        tokens = CONFIG.prefill_tokens

        def plan(self, sessions, worth):  # type: ignore[no-untyped-def]
            if bad in sessions:
                raise ValueError("a bug")
            return plan(sessions, worth)

        announcement = it.engine.draft.budget.announcement  # type: ignore[union-attr]

    monkeypatch.setattr(it.engine.draft, "budget", Budget())
    it.rounds()
    assert it.dropped() == ["bad"]
    it.check_trees(a=[1, 2, 3])


def test_the_cause_is_not_opened_again_for_a_while() -> None:
    it = Failing(poisoned)
    it.open("bad", [1, POISON])
    it.rounds()
    again = replace(opening("bad", [1, POISON]), epoch=2)
    assert it.engine.handle("w", again) == [("w", Refused("bad", 2, "a draft pass of this session failed here"))]
    it.open("good", [1, 2])
    it.now = CULPRIT_S
    assert isinstance(it.engine.handle("w", again)[0][1], Opened)
