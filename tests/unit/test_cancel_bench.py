"""The cancellation bench: its traffic, what it counts as an end, and its verdict."""

import asyncio
from dataclasses import replace

import pytest

from benchmarks.cancel.bench import Tally, cancel_report
from benchmarks.cancel.clients import FINISHED, Outcome, cut_after
from benchmarks.cancel.traffic import LATEST_CUT, WAYS, prompt_of, traffic

CALLS = traffic(2000, 0.2, 32, (4, 24), seed=0)


def test_the_share_is_exact_and_everything_occurs():
    cut = [call for call in CALLS if call.cut_at is not None]
    assert len(cut) == 400
    assert {call.way for call in cut} == {call.way for call in CALLS} == set(WAYS)
    assert {call.cut for call in cut} == {"cancel", "deadline"}
    assert 0 <= min(call.cut_at for call in cut) < 0.05 < 0.85 < max(call.cut_at for call in cut) <= LATEST_CUT
    assert {call.tokens for call in CALLS} == set(range(4, 25))
    assert traffic(2000, 0.2, 32, (4, 24), seed=0) == CALLS
    assert traffic(2000, 0.2, 32, (4, 24), seed=1) != CALLS


def test_prompts_are_short_and_long_and_never_too_long():
    texts = ["def f():\n", "x" * 3000]
    lengths = [len(prompt_of(replace(call, prompt=call.prompt % 2), texts, 1000)) for call in CALLS]
    assert (min(lengths), max(lengths) <= 1000, max(lengths) > 900) == (1, True, True)
    assert sorted(lengths)[len(lengths) // 2] < 60, "short requests, most of them"


@pytest.mark.parametrize(("seconds", "ending"), [(0.0, "cancelled"), (5.0, "finished")])
def test_a_call_that_is_cut_is_cancelled_unless_it_has_ended(seconds, ending):
    async def run():
        async def call() -> Outcome:
            await asyncio.sleep(0.01)
            return FINISHED

        return await cut_after(asyncio.create_task(call()), seconds)

    assert asyncio.run(run()).ending == ending


def state(**held) -> dict:
    gauges = {"kv_slots_used": held.pop("kv", 0.0), "waiting": 0.0, "running": 0.0, "most_steps_to_free": 1.0}
    totals = {"admitted": 90.0, "finished": 80.0, "cancelled": 10.0, "cancelled_waiting": 3.0, "cancelled_in_prefill": 2.0} | held
    return {
        "pools": {"verifier": [{"gauges": gauges, "totals": totals}], "gateway": [{"load": held.get("load", 0), "gauges": {}}]},
        "sessions": held.get("sessions", 0),
    }


def tally(*outcomes: Outcome) -> Tally:
    it = Tally()
    for outcome in outcomes:
        it.add(CALLS[0], outcome, 0.1)
    return it


EMPTY = {"pools": {"verifier": [], "gateway": []}, "sessions": 0}


def test_nothing_left_and_an_end_for_each_is_what_must_hold():
    report = cancel_report(tally(FINISHED, Outcome("cancelled")), EMPTY, state(), 1.0)
    assert report["held"]
    assert (report["finished"], report["cancelled"], report["without_terminal_reply"]) == (1, 1, 0)
    assert report["cancelled_in_verifier"] == {"waiting": 3.0, "in_prefill": 2.0, "decoding": 5.0}
    assert report["most_steps_from_cancel_to_free"] == 1.0


@pytest.mark.parametrize("left", [{"kv": 3.0}, {"load": 1}, {"sessions": 2}, {"admitted": 91.0}])
def test_what_is_left_behind_is_a_failure(left):
    assert not cancel_report(tally(FINISHED), EMPTY, state(**left), 60.0)["held"]


@pytest.mark.parametrize("ending", ["failed", "no reply"])
def test_a_request_without_its_end_is_a_failure_with_its_words(ending):
    report = cancel_report(tally(FINISHED, Outcome(ending, words="gone")), EMPTY, state(), 1.0)
    assert not report["held"]
    assert any("gone" in words for words in report["words"])


def test_a_refusal_without_a_time_is_a_failure():
    it = tally(FINISHED)
    it.refusals, it.refusals_without_time = 5, 1
    assert not cancel_report(it, EMPTY, state(), 1.0)["held"]
