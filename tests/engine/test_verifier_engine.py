"""What the verifier's engine makes of requests and drafters: attempts, limits, waits, pauses, and what a usage counts."""

from dataclasses import replace

import pytest

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.errors import RequestError
from drafthouse.wire.generation_messages import SpeculationUsage
from drafthouse.wire.session_messages import Close, Commit, Dropped, Open, Refused, Scope
from tests.engine.driven_verifier import Setting
from tests.engine.pairs import GREEDY, request
from tests.engine.scripted import CONTEXT, VOCAB_SIZE, truth
from verifier.draft_sessions import REMEMBERED, RETRY_S
from verifier.tree_waits import FIXED_WAIT_S

PROMPT = (1, 2, 3, 4, 5)
TEXT = truth(PROMPT, GREEDY, 0, 30)


@pytest.mark.parametrize(("slots", "limit"), [(30, 30), (200, CONTEXT)])
def test_a_request_that_just_fits_is_served_and_one_token_more_is_refused(slots: int, limit: int) -> None:
    it = Setting(slots)
    most = limit - len(PROMPT)
    with pytest.raises(RequestError, match=f"exceed .* of {limit} tokens"):
        it.submit(request("a", PROMPT, most + 1, mode="off"))
    it.submit(request("a", PROMPT, most, mode="off"))
    it.finish()
    assert tuple(it.outputs["a"]) == truth(PROMPT, GREEDY, 0, most)


@pytest.mark.parametrize("changes", [{"prompt": (1, VOCAB_SIZE)}, {"delivered": (VOCAB_SIZE,)}])
def test_tokens_outside_the_vocabulary_are_refused(changes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(RequestError, match="vocabulary"):
        Setting().submit(replace(request("a", PROMPT, 9), **changes))  # type: ignore[arg-type]


def test_a_later_attempt_takes_the_place_of_an_older_one() -> None:
    it = Setting()
    second = replace(request("a", PROMPT, 20, mode="off"), attempt=2)
    it.submit(second)
    for _ in range(4):
        it.step()
    for attempt in (1, 2):
        with pytest.raises(RequestError, match="running already, attempt 2"):
            it.submit(replace(second, attempt=attempt))
    it.submit(replace(second, attempt=3, delivered=TEXT[:3]))
    it.engine.cancel("a", 2)  # its stream ends late
    assert [(r.attempt, r.finish_reason) for r in it.finish()] == [(3, "length")]
    assert tuple(it.outputs["a"]) == TEXT[:20]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_stop_token_at_the_last_place_is_a_stop(n: int) -> None:
    assert TEXT[n - 1] not in TEXT[: n - 1]
    it = Setting()
    it.submit(request("a", PROMPT, n, mode="off", stop_tokens=[TEXT[n - 1]]))
    assert [(r.finish_reason, tuple(it.outputs["a"])) for r in it.finish()] == [("stop", TEXT[:n])]


def test_trees_are_verified_while_a_long_prompt_fills_every_step() -> None:
    """Its chunk is as long as it would be beside a plain token, and KV slots come out right."""
    it = Setting(step_tokens=16)
    it.open(request("a", PROMPT, 30))
    it.step()
    it.submit(request("b", tuple(range(1, 16)) * 3, 2, mode="off"))
    prompt, verified, chunks = it.engine.sequences["b"], [], []
    while prompt.pending > 1:
        length, before = len(it.outputs["a"]), it.engine.totals.verified
        it.grow("a", TEXT[length : length + 3])
        cached = len(prompt.kv)
        it.step()
        verified.append(it.engine.totals.verified - before)
        chunks.append(len(prompt.kv) - cached)
    assert (verified, chunks) == ([3, 3, 3], [15, 15, 15])
    it.engine.lose_drafter("d")
    it.finish()
    assert tuple(it.outputs["a"]) == TEXT


def test_drafts_behind_a_stop_token_are_not_counted() -> None:
    it = Setting()
    it.open(request("a", PROMPT, 20, mode="fixed", nodes=5, depth=5, stop_tokens=(TEXT[2],)))
    it.step()
    it.grow("a", TEXT[1:6])
    [reply] = it.step()
    assert (reply.tokens, reply.finish_reason) == (TEXT[1:3], "stop")
    assert (reply.usage.verified, reply.usage.accepted, it.engine.totals.accepted) == (5, 2, 2)


def test_usage_counts_drafted_verified_and_accepted_tokens_and_steps() -> None:
    it = Setting()
    it.open(request("a", PROMPT, 10, mode="fixed", nodes=4, depth=4))
    it.step()
    wrong = (TEXT[3] + 1) % VOCAB_SIZE
    it.grow("a", [TEXT[1], TEXT[2], wrong, 0])
    [reply] = it.step()
    assert reply.tokens == TEXT[1:4]
    assert reply.usage == SpeculationUsage(drafted=4, verified=4, accepted=2, steps=2)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_no_node_is_verified_deeper_than_the_request_may_go(left: int) -> None:
    """One of the tokens left is the bonus token; the chain is right and five deep."""
    it = Setting()
    it.open(request("a", PROMPT, 1 + left, mode="fixed", nodes=5, depth=5))
    it.step()
    it.grow("a", TEXT[1:6])
    [reply] = it.step()
    assert (reply.finish_reason, reply.tokens) == ("length", TEXT[1 : 1 + left])
    assert reply.usage.verified == left - 1


def test_drafters_that_are_gone_are_forgotten_at_last_and_those_present_never() -> None:
    it = Setting()
    it.open(request("a", PROMPT, 20))
    draft_sessions = it.engine.draft_sessions
    for i in range(3 * REMEMBERED):
        draft_sessions.add_drafter(f"gone-{i}")
        assert draft_sessions.records[f"gone-{i}"].usable(it.now)
        it.engine.lose_drafter(f"gone-{i}")
    assert set(draft_sessions.records) == {"d"} | {f"gone-{i}" for i in range(2 * REMEMBERED, 3 * REMEMBERED)}


def test_a_late_tree_is_verified_below_what_was_committed_meanwhile() -> None:
    it = Setting()
    it.open(request("a", PROMPT, 20, mode="fixed", nodes=3, depth=4))
    it.step()
    it.grow("a", TEXT[:4], late=1)
    [reply] = it.step()
    assert (reply.tokens, reply.usage.verified, reply.usage.accepted) == (TEXT[1:5], 3, 3)
    other = (TEXT[4] + 1) % VOCAB_SIZE
    it.grow("a", [other, *TEXT[5:8]], late=1)
    assert it.wait(), "it left the committed path: there is nothing to verify"


def test_a_drafter_that_promises_too_much_is_asked_for_more() -> None:
    it = Setting()
    it.engine.pricing.set_price_floor(0.1)
    assert it.open(request("a", PROMPT, 30)).min_confidence == pytest.approx(0.1)
    it.step()
    for done in range(1, 9):
        it.grow("a", [(TEXT[done] + 1) % VOCAB_SIZE], next_pass_eta_us=0)
        [reply] = it.step()
        assert reply.usage.verified == done
    message = it.sent()[-1]
    assert isinstance(message, Commit)
    assert message.min_confidence > 0.11


def test_a_fixed_request_waits_for_its_tree_until_one_deadline_a_step() -> None:
    it = Setting()
    it.open(request("a", PROMPT, 20, mode="fixed", nodes=3, depth=3))
    it.step()
    for _ in range(2):
        deadline = it.now + FIXED_WAIT_S
        for share in (0.0, 0.5, 0.4):
            it.now += share * FIXED_WAIT_S
            assert it.wait() == pytest.approx(deadline)
        it.now = deadline
        [reply] = it.step()
        assert len(reply.tokens) == 1


def test_a_fixed_request_does_not_wait_when_no_more_is_to_come() -> None:
    it = Setting()
    it.open(request("a", PROMPT, 20, mode="fixed", nodes=3, depth=3))
    it.step()
    it.grow("a", TEXT[1:2])
    assert it.wait()
    it.grow("a", TEXT[1:2], next_pass_eta_us=0)
    [reply] = it.step()
    assert reply.tokens == TEXT[1:3]


@pytest.mark.parametrize("how", ["refused", "malformed"])
def test_a_session_that_failed_is_tried_again_after_a_pause(how: str) -> None:
    it = Setting()
    epoch = it.open(request("a", PROMPT, 20)).epoch
    if how == "refused":
        it.engine.receive("d", Refused("a", epoch, "full"))
    else:
        it.engine.fail_session("a", epoch, "not a tree")
        assert it.sent() == [Close("a", epoch)]
    it.step()
    it.now += 0.9 * RETRY_S
    it.step()
    assert it.sent() == []
    it.now += 0.2 * RETRY_S
    it.step()
    [message] = it.sent()
    assert isinstance(message, Open)
    assert message.epoch > epoch
    assert message.tokens == PROMPT + TEXT[:3]


@pytest.mark.parametrize("how", [Refused, Dropped])
def test_what_a_drafter_cannot_draft_for_is_not_sent_to_it_again(how: type[Refused | Dropped]) -> None:
    """Another drafter may be asked, and the same one for another request."""
    it = Setting()
    epoch = it.open(request("a", PROMPT, 20)).epoch
    it.engine.receive("d", how("a", epoch, "too long for this draft", Scope.SEQUENCE))
    for _ in range(5):
        it.now += 10 * RETRY_S
        it.step()
    assert it.sent() == []
    assert it.engine.draft_sessions.events.unfit == 1
    it.open(request("b", PROMPT, 20))
    it.engine.draft_sessions.add_drafter("e")
    it.now += 10 * RETRY_S
    it.step()
    assert [message.session_id for message in it.engine.draft_sessions.take_outbox()["e"]] == ["a"]


def test_a_drafter_that_can_never_draft_here_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """For no request; it is said once, and does not count as one that could offer anything."""
    it = Setting()
    opened = [it.open(request(name, PROMPT, 20)) for name in "ab"]
    assert it.engine.draft_sessions.able == 1
    for message in opened:
        it.engine.receive("d", Refused(message.session_id, message.epoch, "noise version 2, this drafter has 1", Scope.PAIR))
    assert it.engine.draft_sessions.able == 0
    it.submit(request("c", PROMPT, 20))
    for _ in range(5):
        it.now += 10 * RETRY_S
        it.step()
    assert it.sent() == []
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["drafter d can never draft for this verifier and is not asked again: noise version 2, this drafter has 1"]


def test_a_session_keeps_the_size_that_it_was_opened_with_when_trees_become_smaller() -> None:
    it = Setting()
    opened = it.open(request("a", PROMPT, 20))
    it.engine.reconfigure(VerifierConfig(), TreeConfig(max_nodes=1, max_depth=1))
    it.grow("a", TEXT[:14])
    session = it.engine.sequences["a"].draft_session
    assert opened.max_nodes > 14
    assert session is not None
    assert len(session.tree) == 14
    assert it.engine.draft_sessions.events.malformed == 0


def test_a_new_request_does_not_inherit_the_pause_of_an_old_one_with_its_id() -> None:
    it = Setting()
    it.engine.receive("d", Refused("a", it.open(request("a", PROMPT, 20)).epoch, "full"))
    it.engine.cancel("a", 1)
    it.open(request("a", PROMPT, 20))


def test_what_is_said_of_another_epoch_or_by_another_drafter_does_not_end_a_session() -> None:
    it = Setting()
    epoch = it.open(request("a", PROMPT, 20)).epoch
    it.engine.fail_session("a", epoch - 1, "not a tree")
    it.engine.receive("e", Refused("a", epoch, "full"))
    assert it.sent() == []
    link = it.engine.sequences["a"].draft_session
    assert link is not None
    assert link.epoch == epoch
