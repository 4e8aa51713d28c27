"""The cancellation bench: its traffic, what it counts as an end, and its verdict."""

import asyncio
from dataclasses import replace

import pytest

from benchmarks.cancel.bench import Tally, cancel_report, send_all
from benchmarks.cancel.clients import FINISHED, Outcome, cut_after
from benchmarks.cancel.traffic import LATEST_CUT, WAYS, Call, Waiting, prompt_of, traffic

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
    gauges = {"kv_slots_used": held.pop("kv", 0.0), "waiting": 0.0, "running": 0.0, "most_steps_to_free": held.pop("steps", 1.0)}
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
    report = cancel_report(tally(FINISHED, Outcome("cancelled")), 1, EMPTY, state(), 1.0)
    assert report["held"]
    assert (report["finished"], report["cancelled"], report["without_terminal_reply"]) == (1, 1, 0)
    assert report["cancelled_in_verifier"] == {"waiting": 3.0, "in_prefill": 2.0, "decoding": 5.0}
    assert report["most_steps_from_cancel_to_free"] == 1.0


@pytest.mark.parametrize("left", [{"kv": 3.0}, {"load": 1}, {"sessions": 2}, {"admitted": 91.0}, {"steps": 2.0}])
def test_what_is_left_behind_or_held_for_too_long_is_a_failure(left):
    assert not cancel_report(tally(FINISHED), 0, EMPTY, state(**left), 60.0)["held"]


def test_fewer_cancelled_than_asked_for_is_a_failure():
    ended = tally(FINISHED, Outcome("cancelled"), Outcome("cancelled"))
    assert [cancel_report(ended, due, EMPTY, state(), 1.0)["held"] for due in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("latest", [0.7, 0.3, 0.1])
def test_a_cut_that_comes_too_late_is_made_on_another_request(latest):
    """Every request ends at `latest` of the usual time."""
    cut: list[Call] = []
    sent: list[Call] = []

    async def send(call: Call) -> bool:
        await asyncio.sleep(0)
        sent.append(call)
        if call.cut_at is None or call.cut_at > latest:
            return call.cut_at is not None
        cut.append(call)
        return False

    asyncio.run(send_all(Waiting(CALLS), send, 48))
    assert len(cut) == 400
    assert 2000 <= len(sent) < 2100, "few have to be sent beyond those asked for"
    assert {(call.way, call.prompt, call.seed) for call in sent} == {(call.way, call.prompt, call.seed) for call in CALLS}


def test_where_all_are_cut_a_late_one_is_sent_once_more():
    waiting = Waiting([])
    late = replace(CALLS[0], cut_at=0.8)
    waiting.hand_on(late)
    assert (waiting.take(), len(waiting)) == (replace(late, cut_at=0.4), 0)


@pytest.mark.parametrize("ending", ["failed", "no reply"])
def test_a_request_without_its_end_is_a_failure_with_its_words(ending):
    report = cancel_report(tally(FINISHED, Outcome(ending, words="gone")), 0, EMPTY, state(), 1.0)
    assert not report["held"]
    assert any("gone" in words for words in report["words"])


def test_a_refusal_without_a_time_is_a_failure():
    it = tally(FINISHED)
    it.refusals, it.refusals_without_time = 5, 1
    assert not cancel_report(it, 0, EMPTY, state(), 1.0)["held"]
