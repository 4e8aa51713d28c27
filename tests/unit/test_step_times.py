"""Where a step's time goes, at given moments."""

from types import SimpleNamespace

import pytest

from verifier.scheduler import StepPlan
from verifier.step_times import StepTimes
from verifier.totals import VerifyTotals


@pytest.fixture
def times() -> StepTimes:
    return StepTimes(VerifyTotals())


def test_waiting_for_drafts_counts_from_the_first_look_to_the_start(times):
    times.gather(1.0)
    times.gather(1.25)
    times.begin(StepPlan(), started=1.5, ready=1.625)
    times.chose(ready=1.625, run_s=0.25, now=2.0)
    totals = times._totals
    assert (totals.gather_seconds, totals.select_seconds, totals.choose_seconds) == (0.5, 0.125, 0.125)
    times.begin(StepPlan(), started=3.0, ready=3.0)
    assert totals.gather_seconds == 0.5, "the second step did not wait"


def test_a_wait_that_ends_with_nothing_to_do_is_none(times):
    times.gather(1.0)
    times.idle()
    times.begin(StepPlan(), started=9.0, ready=9.0)
    assert times._totals.gather_seconds == 0.0


def test_a_request_has_queued_until_its_first_step(times):
    first, second = SimpleNamespace(arrived=1.0), SimpleNamespace(arrived=1.5)
    for started, plan in [(2.0, StepPlan(prefilling=[(first, 8)])), (3.0, StepPlan(decoding=[first], prefilling=[(second, 4)])),
                          (4.0, StepPlan(decoding=[first, second]))]:  # fmt: skip
        times.begin(plan, started, started)
    assert list(times.queue_seconds) == [1.0, 1.5]
