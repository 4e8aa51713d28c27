"""What becomes of requests that the verifier's engine lets in or not, in its counters and in what they hold."""

from dataclasses import replace

import pytest

from drafthouse.errors import OverloadError
from drafthouse.wire.session_messages import Close
from tests.engine.driven_verifier import Setting
from tests.engine.pairs import GREEDY, request
from tests.engine.scripted import truth

PROMPT = (1, 2, 3, 4, 5)
LONG = tuple(i % 16 for i in range(40))
TEXT = truth(PROMPT, GREEDY, 0, 30)


def totals(it: Setting) -> dict[str, int]:
    t = it.engine.totals
    assert t.admitted == t.finished + t.cancelled + t.superseded + t.returned + t.failed + len(it.engine.sequences), "one end for each"
    ends = ("finished", "cancelled", "cancelled_waiting", "cancelled_in_prefill", "superseded", "returned", "failed")
    names = ("admitted", *ends, "refused")
    return {name: count for name in names if (count := getattr(t, name))}


def full(steps: int = 0) -> Setting:
    """One runs, one waits, and so many steps have been."""
    it = Setting(max_sequences=1, max_queue=1)
    it.submit(request("a", PROMPT, 20, mode="off"))
    it.step()
    it.submit(request("b", PROMPT, 20, mode="off"))
    for _ in range(steps):
        it.step()
    return it


def test_a_full_queue_refuses_and_a_request_that_goes_on_here_is_let_in() -> None:
    it = full()
    with pytest.raises(OverloadError, match="1 requests wait already"):
        it.submit(request("c", PROMPT, 20, mode="off"))
    assert "c" not in it.engine.sequences
    it.submit(replace(request("d", PROMPT, 20, mode="off", delivered=TEXT[:3]), attempt=2))
    it.submit(replace(request("e", PROMPT, 20, mode="off"), attempt=2, resumed=True))
    assert totals(it) == {"admitted": 4, "refused": 1}
    it.finish()
    assert tuple(it.outputs["d"]) == tuple(it.outputs["e"]) == TEXT[:20]
    assert totals(it) == {"admitted": 4, "finished": 4, "refused": 1}


def test_who_claims_to_be_resumed_finds_a_bound_too() -> None:
    """A peer's word opens the room beyond a full queue: as much as one verifier can have had, and no more."""
    it = full()
    for i in range(2):
        it.submit(replace(request(f"claims {i}", PROMPT, 20, mode="off"), attempt=2, resumed=True))
    for claim in ({"resumed": True}, {"delivered": TEXT[:3]}):
        with pytest.raises(OverloadError, match="3 requests wait already"):
            it.submit(replace(request("one more", PROMPT, 20, mode="off"), attempt=2, **claim))
    assert len(it.engine.scheduler.waiting) == 3
    it.finish()
    assert totals(it) == {"admitted": 4, "finished": 4, "refused": 2}


def test_a_refused_request_is_told_the_time_at_which_a_place_is_expected() -> None:
    """One place; a request takes 20 steps of 5 ms there."""
    it = Setting(max_sequences=1, max_queue=1)
    for i in range(60):
        it.submit(request(f"served {i}", PROMPT, 20, mode="off"))
        it.finish()
    it.submit(request("a", PROMPT, 20, mode="off"))
    it.step()
    it.submit(request("b", PROMPT, 20, mode="off"))
    told = []
    for name in "cde":
        with pytest.raises(OverloadError) as caught:
            it.submit(request(name, PROMPT, 20, mode="off"))
        told.append(caught.value.retry_after_s)
    assert told == pytest.approx([0.1, 0.2, 0.3], rel=0.15)


@pytest.mark.parametrize("phase", ["waiting", "in prefill", "decoding"])
def test_what_is_cancelled_is_free_at_once_whatever_it_was_at(phase: str) -> None:
    it = Setting(max_sequences=1, step_tokens=16)
    if phase == "waiting":
        it.submit(request("first", PROMPT, 20, mode="off"))
        it.step()
    opened = it.open(request("a", LONG, 10))
    for _ in range({"waiting": 1, "in prefill": 1, "decoding": 4}[phase]):
        it.step()
    s = it.engine.sequences["a"]
    assert {"waiting": len(s.kv) == 0, "in prefill": 0 < len(s.kv) < 39, "decoding": s.output_len > 0}[phase]
    it.sent()
    it.engine.cancel("a", 1, heard_at_step=it.engine.totals.steps)
    assert it.sent() == [Close("a", opened.epoch)]
    assert s not in it.engine.scheduler.waiting
    assert s not in it.engine.scheduler.running
    held = 20 if phase == "waiting" else 0
    assert len(s.kv) == 0
    assert (it.engine.scheduler.allocator.count - it.engine.scheduler.allocator.free_count > 0) == bool(held)
    counted = {"waiting": {"cancelled_waiting": 1}, "in prefill": {"cancelled_in_prefill": 1}, "decoding": {}}[phase]
    assert totals(it) == {"admitted": 1 + bool(held), "cancelled": 1, **counted}
    assert it.engine.admission.most_steps_to_free == 0


def test_a_place_in_the_queue_that_was_given_up_is_taken_at_once() -> None:
    it = full()
    with pytest.raises(OverloadError):
        it.submit(request("c", PROMPT, 20, mode="off"))
    it.engine.cancel("b", 1)
    it.submit(request("c", PROMPT, 20, mode="off"))
    assert list(it.engine.sequences) == ["a", "c"]


def test_an_attempt_takes_the_place_of_the_older_one_even_in_a_full_queue() -> None:
    it = full()
    it.submit(replace(request("b", PROMPT, 20, mode="off"), attempt=2))
    assert totals(it) == {"admitted": 3, "superseded": 1}


def test_what_is_given_back_was_next_and_leaves_nothing_behind() -> None:
    it = Setting(max_sequences=1)
    it.submit(request("runs", PROMPT, 20, mode="off"))
    it.step()
    opened = it.open(request("a", LONG, 10))
    it.submit(request("b", PROMPT, 20, mode="off", delivered=TEXT[:3]))
    it.submit(request("c", PROMPT, 20, mode="off"))
    it.sent()
    replies = it.engine.give_back(3, lambda s: not s.output_len)
    assert [reply.request_id for reply in replies] == ["a", "c"]
    assert {(reply.finish_reason, reply.first_token_index) for reply in replies} == {("returned", 0)}
    assert it.sent() == [Close("a", opened.epoch)]
    assert list(it.engine.sequences) == ["runs", "b"]
    assert it.engine.give_back(3, lambda s: False) == []
    [begun] = it.engine.give_back(1, lambda s: True)
    assert (begun.request_id, begun.first_token_index) == ("b", 3)
    assert totals(it) == {"admitted": 4, "returned": 3}
    it.finish()
    assert tuple(it.outputs["runs"]) == TEXT[:20], "what runs is not given back"


def test_a_failed_step_counts_what_it_failed() -> None:
    it = full()
    it.broken = True
    with pytest.raises(RuntimeError):
        it.step()
    it.broken = False
    it.engine.recover("out of memory")
    assert totals(it) == {"admitted": 2, "failed": 1}


def test_those_tried_one_by_one_after_a_failed_step_hold_their_places() -> None:
    it = Setting(max_sequences=2, max_queue=0)
    for name in "ab":
        it.submit(request(name, PROMPT, 20, mode="off"))
    it.step()
    it.broken = True
    with pytest.raises(RuntimeError):
        it.step()
    it.broken = False
    assert it.engine.recover("out of memory") == []
    assert it.engine.scheduler.full
    it.engine.cancel("b", 1)
    assert not it.engine.scheduler.full
    assert it.engine.scheduler.ended == 1
    it.finish()
    assert totals(it) == {"admitted": 2, "finished": 1, "cancelled": 1, "cancelled_in_prefill": 1}, "its KV was to be computed again"


def test_a_cancellation_that_waited_for_a_step_is_known() -> None:
    it = full()
    heard = it.engine.totals.steps
    it.step()
    it.engine.cancel("a", 1, heard)
    assert it.engine.admission.most_steps_to_free == 1
