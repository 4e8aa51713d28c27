"""The heartbeat: goes on through everything, keeps the last directive, logs changes only."""

import asyncio
import logging
from dataclasses import dataclass, field

import pytest

from drafthouse.wire import heartbeat
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Directive, Route
from drafthouse.wire.reports import Report
from tests.unit.reports import gateway_report

REPORT = gateway_report()
DIRECTIVE = Directive(0.001, verifiers=(Route("v", "v:1", "f", 0, 8),))


@dataclass
class Controller:
    """Gives these answers in turn, the last one for ever; an exception is raised, None is never answered."""

    answers: list[object]
    reports: list[Report] = field(default_factory=list)

    @property
    def heartbeat(self):
        return self

    async def remote(self, report):
        self.reports.append(report)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def beats(controller: Controller, count: int, make_report=lambda: REPORT) -> tuple[Heartbeat, list[Directive]]:
    taken: list[Directive] = []

    async def run() -> Heartbeat:
        beat = Heartbeat(controller, make_report, 0.001, taken.append)
        beat.start()
        beat.start()
        while len(controller.reports) < count:
            await asyncio.sleep(0.001)
        await beat.stop()
        return beat

    return asyncio.run(asyncio.wait_for(run(), 5.0)), taken


def test_reports_go_up_and_directives_come_down():
    controller = Controller([DIRECTIVE])
    beat, taken = beats(controller, 3)
    assert beat.directive == DIRECTIVE
    assert controller.reports[0] == REPORT
    assert taken[0] == DIRECTIVE


def test_nothing_stops_it_and_the_last_directive_stays(monkeypatch, caplog):
    monkeypatch.setattr(heartbeat, "ANSWER_TIMEOUT_S", 0.01)
    caplog.set_level(logging.INFO, logger=heartbeat.__name__)
    later = Directive(0.002)
    controller = Controller([DIRECTIVE, RuntimeError("gone"), None, "nonsense", RuntimeError("gone"), later])
    beat, taken = beats(controller, 8)
    assert beat.directive == later
    assert taken[:2] == [DIRECTIVE, later]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_report_or_a_callback_that_fails_does_not_stop_it():
    calls = []

    def failing() -> Report:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not ready")
        return REPORT

    controller = Controller([DIRECTIVE])
    beats(controller, 2, failing)
    assert len(calls) >= 3


def test_before_the_first_answer_the_interval_is_the_configured_one():
    async def run():
        beat = Heartbeat(Controller([RuntimeError("none yet")]), lambda: REPORT, 0.5)
        assert not await beat.beat()
        assert beat.directive == Directive(0.5)
        with pytest.raises(RuntimeError):
            await beat._ask()

    asyncio.run(run())


def test_what_an_incomplete_directive_leaves_out_is_kept():
    a, b, moved = Route("a", "a:1", "f", 1, 8), Route("b", "b:1", "f", 2, 8), Route("a", "a:2", "f", 0, 8)
    full = Directive(0.001, verifiers=(a, b), drafters=(b,), price_floor=0.5)
    controller = Controller([full, Directive(0.001, verifiers=(moved,), complete=False), Directive(0.001, verifiers=(moved,))])
    _, taken = beats(controller, 4)
    assert taken[0] == full
    assert (taken[1].verifiers, taken[1].drafters, taken[1].price_floor) == ((moved, b), (b,), 0.0)
    assert (taken[2].verifiers, taken[2].drafters) == ((moved,), ())
