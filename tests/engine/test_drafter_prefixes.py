"""Draft sessions that share KV: less work, the same trees, nothing of a tree in the cache."""

import pytest

from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, WindowConfig
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.wire.session_messages import Commit, Opened
from tests.engine.pairs import FAST
from tests.engine.scripted import ScriptedRunner, draft_logits, recent_logits
from tests.engine.test_drafter_engine import WIDE, close_all, grown, opening, run, scripted, tree_of, words

CONFIG = DrafterConfig(prefill_tokens=16)
COMMON = [1, 2, 3, 4] * 12  # three chunks


class Counted(ScriptedRunner):
    """Counts the committed tokens that passes run: those of segments without lines."""

    caught_up = 0

    def run(self, segments: list[Segment]) -> RunResult:
        self.caught_up += sum(len(segment) for segment in segments if segment.lines is None)
        return super().run(segments)


class Setting:
    def __init__(self, config: DrafterConfig = CONFIG, shares: bool = True):
        logits = draft_logits if config.window is None else recent_logits
        self.runner = Counted(logits, 3000, lambda: None)
        if shares:
            self.runner.cache.share_prefixes()
        self.engine = DrafterEngine(self.runner.as_loaded(), FAST, config, WIDE)

    def open(self, name: str, tokens: list[int]) -> None:
        assert isinstance(self.engine.handle("v", opening(name, tokens))[0][1], Opened)


@pytest.mark.parametrize("together", [True, False])
def test_a_common_beginning_is_run_once(together: bool) -> None:
    it = Setting()
    texts = {name: [*COMMON, i, 9] for i, name in enumerate("abcde")}
    for name, tokens in texts.items():
        it.open(name, tokens)
        if not together:
            run(it.engine)
    run(it.engine)
    assert it.runner.caught_up == len(COMMON) + 2 * len(texts)
    assert it.engine.totals.cached_tokens == 4 * len(COMMON)
    for name, tokens in texts.items():
        assert words(tree_of(it.engine, name)) == pytest.approx(grown(scripted(config=CONFIG), opening(name, tokens))), name
    close_all(it.engine)


def test_a_session_that_is_over_leaves_its_committed_tokens_and_no_node() -> None:
    it = Setting()
    it.open("a", COMMON)
    run(it.engine)
    path = tree_of(it.engine, "a").path(0)
    it.engine.handle("v", Commit("a", 1, len(COMMON), (path[0], 7), 0.0))
    run(it.engine)
    session = it.engine.sessions["v", "a"]
    path += [7, session.tree.tokens[session.expanded[0]]]
    it.engine.handle("v", Commit("a", 1, len(COMMON) + 2, (path[2],), 0.0))
    assert len(session.expanded) > 0
    close_all(it.engine)
    prefixes = it.engine.cache.allocator.prefixes
    assert prefixes is not None
    assert prefixes.slot_count == len(COMMON) + 3
    before = it.runner.caught_up
    it.open("b", [*COMMON, *path, 5])
    run(it.engine)
    assert it.runner.caught_up == before + 1, "the root alone"


def test_with_a_window_nothing_is_shared() -> None:
    """And no session waits for another one."""
    it = Setting(DrafterConfig(prefill_tokens=16, window=WindowConfig(sinks=1, recent=8)))
    for name in "ab":
        it.open(name, COMMON)
    run(it.engine)
    close_all(it.engine)
    assert it.runner.caught_up == 2 * len(COMMON)
    assert it.engine.totals.cached_tokens == 0


def test_the_count_can_tell() -> None:
    it = Setting(shares=False)
    for name in "abc":
        it.open(name, COMMON)
    run(it.engine)
    assert it.runner.caught_up == 3 * len(COMMON)
    close_all(it.engine)
