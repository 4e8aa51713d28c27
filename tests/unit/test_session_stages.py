"""Stages of one session: what is slow, does not pay or fails is out, and the rest goes on."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from drafter.lookahead import Lookahead
from drafthouse.config.serving import StageConfig
from drafthouse.policy.calibration import Calibration
from drafthouse.policy.growing_tree import GrowingTree, TreeLimits
from drafthouse.policy.growth import GrowthThreshold
from drafthouse.policy.stage_breaker import FAULTS_IN_A_ROW, OUT_S
from drafthouse.policy.stage_worth import TRIAL_COMMITS
from drafthouse.sampling import SamplingParams
from drafthouse.stages.build import StageMaker, forced_maker, placed
from drafthouse.stages.session_stages import SessionStages
from drafthouse.stages.stage import Children, SessionFacts
from drafthouse.stages.stage_sandbox import SandboxedStage, Worker
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.token_tree import ROOT
from tests.engine.own_stages import Counting
from tests.engine.own_stages import __name__ as OWN

FACTS = SessionFacts(SamplingParams(0.0), 7, 50, "mine")
FREE, DEEP = GrowthThreshold.at(0.0, ahead=False), TreeLimits(64, 32)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def maker(name: str) -> StageMaker:
    [made] = placed([StageConfig(kind=f"{OWN}:{name}")], "drafter", None, FACTS.vocab_size)
    return made


def session(made: StageMaker, totals: StageTotals) -> SessionStages:
    stages = SessionStages([made], FACTS, Calibration(), 4, Clock(), totals)
    stages.follow([1, 2, 3])
    return stages


def lookahead(made: StageMaker, totals: StageTotals, clock: Clock) -> Lookahead:
    inner = Lookahead(made, FACTS, Calibration(), totals, 4, clock)
    inner.follow([1, 2, 3])
    return inner


def test_what_a_request_does_not_allow_is_not_drafted() -> None:
    facts = SessionFacts(SamplingParams(0.0, allowed_token_ids=(4, 5, 7)), 7, 50, "mine")
    stages, tree = SessionStages([maker("Counting")], facts, Calibration(), 4, Clock(), StageTotals()), GrowingTree()
    stages.follow([1, 2, 3])
    assert stages.grow(tree, FREE, DEEP) == 2
    assert tree.tree.tokens == [4, 5]


def test_a_stage_that_takes_too_long_for_one_growth_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    totals = StageTotals()
    stages, tree = session(maker("Slow"), totals), GrowingTree()
    assert stages.grow(tree, FREE, DEEP) < 4, "0.04 s for each node of 16"
    assert (totals.stage_faults, stages.working) == (1, [])
    assert "calls of one turn" in caplog.text
    assert stages.grow(GrowingTree(), FREE, DEEP) == 0


def test_so_is_an_inner_stage_that_takes_too_long_for_the_guesses_of_one_pass() -> None:
    totals = StageTotals()
    inner = lookahead(maker("Slow"), totals, Clock())
    assert len(inner.guess(GrowingTree(), [ROOT], 0.0, 32)) == 0
    assert totals.stage_faults == 1


@pytest.mark.parametrize(("seconds", "came_true", "asked"), [(0.01, 1, 40), (0.03, 1, TRIAL_COMMITS), (0.0, 0, TRIAL_COMMITS)])
def test_an_inner_stage_that_takes_longer_than_it_saves_rests(seconds: float, came_true: int, asked: int) -> None:
    """A guess that comes true spares at most a pass, of 0.02 s here."""
    clock, totals, calls = Clock(), StageTotals(), 0

    class Timed(Counting):
        def follow(self, tokens: Sequence[int]) -> None:
            clock.now += 10.0  # at rest, too: it is not counted
            super().follow(tokens)

        def children(self, path: Sequence[int], width: int) -> Children:
            nonlocal calls
            calls += 1
            clock.now += seconds
            return super().children(path, width)

    inner = lookahead(StageMaker("timed", 16, 1, Timed), totals, clock)
    for _ in range(40):
        inner.guess(GrowingTree(), [ROOT], 0.0, 32)
        inner.judge(came_true, 0.02)
    assert calls == asked
    assert totals.stage_rests == (asked < 40)
    assert totals.stage_seconds == pytest.approx(10.0 + seconds * asked)


class Closing(Counting):
    """Says what became of its sessions in `ends`; waits for `goes_on` where it hangs."""

    def __init__(self, facts: SessionFacts, ends: list[str], bad: str, goes_on: threading.Event):
        super().__init__(facts)
        self.ends, self.bad, self.goes_on = ends, bad, goes_on
        if bad == "late":
            goes_on.wait(20)

    def children(self, path: Sequence[int], width: int) -> Children:
        if self.bad == "hangs":
            self.goes_on.wait(20)
        elif self.bad != "good":
            raise RuntimeError("on purpose")
        return super().children(path, width)

    def close(self, finished: bool) -> None:
        self.ends.append("finished" if finished else "closed")
        if self.bad == "wrong twice":
            raise RuntimeError("again")


class CountingWorker(Worker):
    calls = 0

    def call(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return super().call(*args, **named)


@pytest.mark.parametrize(("bad", "faults"), [("good", 0), ("wrong", 1), ("wrong twice", 1)])
def test_a_stage_is_closed_once_whether_it_failed_or_not(bad: str, faults: int, caplog: pytest.LogCaptureFixture) -> None:
    ends, totals, worker = list[str](), StageTotals(), Worker()
    made = StageMaker(bad, 16, 4, lambda f: SandboxedStage(f, lambda f: Closing(f, ends, bad, threading.Event()), worker), worker)
    stages = session(made, totals)
    stages.grow(GrowingTree(), FREE, DEEP)
    assert ends == ["closed"] * faults
    stages.close(finished=True)
    assert ends == ["closed" if faults else "finished"]
    assert totals.stage_faults == faults
    assert ("again" in caplog.text) == (bad == "wrong twice")


@pytest.mark.parametrize(("bad", "calls"), [("hangs", 3), ("late", 1)])
def test_a_stage_that_hangs_is_closed_when_it_comes_back_and_nobody_waits_for_it(bad: str, calls: int) -> None:
    before = set(threading.enumerate())
    ends, totals, worker, goes_on = list[str](), StageTotals(), CountingWorker(), threading.Event()
    [late] = set(threading.enumerate()) - before
    made = StageMaker(bad, 16, 4, lambda f: SandboxedStage(f, lambda f: Closing(f, ends, bad, goes_on), worker), worker)
    stages = session(made, totals)
    stages.grow(GrowingTree(), FREE, DEEP)
    stages.close(finished=True)
    assert (worker.calls, totals.stage_faults, ends) == (calls, 1, []), "none to close it"
    goes_on.set()
    late.join(20)
    assert ends == ["closed"]


def test_a_stage_that_fails_in_session_after_session_is_left_out_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    clock, totals, worker, bad = Clock(), StageTotals(), Worker(), ["wrong"]
    ends, goes_on = list[str](), threading.Event()
    made = StageMaker("mine", 16, 4, lambda f: SandboxedStage(f, lambda f: Closing(f, ends, bad[0], goes_on), worker), worker)

    def works() -> bool:
        stages = SessionStages([made], FACTS, Calibration(), 4, clock, totals)
        stages.follow([1, 2, 3])
        added = stages.grow(GrowingTree(), FREE, DEEP)
        stages.close(finished=True)
        return added > 0

    for _ in range(8):
        assert not works()
    assert totals.stage_faults == FAULTS_IN_A_ROW == len(ends)
    assert caplog.text.count("stage mine is out for new sessions after 3 faults in a row") == 1
    clock.now += OUT_S
    assert not works()
    assert not works()
    assert totals.stage_faults == FAULTS_IN_A_ROW + 1, "one has tried"
    bad[0] = "good"
    clock.now += OUT_S - 1
    assert not works(), "not made yet"
    clock.now += 1
    assert all(works() for _ in range(3))
    assert totals.stage_faults == FAULTS_IN_A_ROW + 1
    assert "stage mine works again" in caplog.text


def test_a_session_in_which_it_was_not_asked_says_nothing_of_a_stage() -> None:
    totals = StageTotals()
    made = maker("Crashing")
    for _ in range(FAULTS_IN_A_ROW):
        session(made, totals).close(finished=True)
        session(made, totals).grow(GrowingTree(), FREE, DEEP)
    assert made.breaker.out


def test_where_a_grammar_forces_a_token_no_other_stage_drafts() -> None:
    forced = forced_maker(lambda path, most: [9, 8][len(path) :] if list(path) in ([], [9]) else [])
    stages, tree = SessionStages([forced, maker("Counting")], FACTS, Calibration(), 4, Clock(), StageTotals()), GrowingTree()
    stages.follow([1, 2, 3])
    stages.grow(tree, FREE, DEEP)
    assert (tree.tree.tokens[:2], tree.tree.parents[:2], tree.confidences[:2]) == ([9, 8], [ROOT, 0], [1.0, 1.0])
    assert len(tree) > 2
    assert min(tree.tree.parents[2:]) == 1
