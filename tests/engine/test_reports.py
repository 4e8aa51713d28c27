"""Reports of engines that have served: what they count and what they are, at the moment of the report."""

from dataclasses import asdict

import pytest

from drafter import report as drafter_report
from drafter.server import DrafterServer
from drafthouse.wire.reports import Replica
from simulator.one_process import OneProcess
from tests.engine.pairs import loaded, noisy_copy, pair, prompts, request
from tests.engine.tiny_models import tiny
from verifier import report as verifier_report

REPLICA = Replica("r", "10.0.0.1:1", 7, "n", "f", ranks=(8, 9))
ROUND_TRIP_S = 0.002


@pytest.fixture
def served() -> OneProcess:
    both = pair(loaded(tiny("llama")), [loaded(noisy_copy("llama", 0, 0.02))])
    both.generate(request(str(i), p, 12) for i, p in enumerate(prompts(2, longest=12)))
    return both


def test_a_verifier_reports_its_engine(served: OneProcess) -> None:
    engine = served.verifier
    found = verifier_report.report_of(engine, REPLICA, draining=True, step_faults=3, round_trips={"drafter-0": ROUND_TRIP_S})
    assert (found.replica, found.draining, found.totals.step_faults) == (REPLICA, True, 3)
    assert (found.load, found.running, found.waiting, found.kv_slots_used) == (0, 0, 0, 0)
    assert found.capacity == engine.scheduler.config.max_sequences + engine.scheduler.config.max_queue
    assert found.totals.verify == engine.totals
    assert found.totals.sessions.opened > 0
    assert list(found.drafters) == ["drafter-0"]
    assert 0.0 < found.drafters["drafter-0"].trust <= 1.0
    assert found.drafters["drafter-0"].round_trip_seconds == ROUND_TRIP_S
    assert (found.synthetic_acceptance, found.totals.paced) == (None, None)


def test_a_drafter_that_nothing_is_known_of_is_trusted(served: OneProcess) -> None:
    served.verifier.draft_sessions.add_drafter("new")
    view = verifier_report.report_of(served.verifier, REPLICA, False, 0, {"new": None}).drafters["new"]
    assert (view.trust, view.banned, view.round_trip_seconds) == (1.0, False, None)


def test_a_drafter_reports_its_engine(served: OneProcess) -> None:
    engine = served.drafters["drafter-0"]
    server = DrafterServer(engine, "drafter-0")
    server.malformed = 2
    found = drafter_report.report_of(server, REPLICA)
    assert found.draining, "its thread does not run"
    assert (found.load, found.capacity) == (0, engine.config.max_sessions)
    assert (found.totals.draft, found.totals.malformed) == (engine.totals, 2)
    assert found.totals.draft.drafted > 0
    assert found.calibration_brier is not None
    assert found.pass_ms > 0
    assert found.kv_slots > 0


def test_a_report_stays_what_it_was(served: OneProcess) -> None:
    """Rates are differences of two reports, so none may change with what the engine counts next."""
    server = DrafterServer(served.drafters["drafter-0"], "drafter-0")
    reports = [verifier_report.report_of(served.verifier, REPLICA, False, 0, {}), drafter_report.report_of(server, REPLICA)]
    before = [asdict(report.totals) for report in reports]
    served.generate([request("later", prompts(1)[0], 12)])
    assert [asdict(report.totals) for report in reports] == before
    assert served.verifier.totals.committed > before[0]["verify"]["committed"]
