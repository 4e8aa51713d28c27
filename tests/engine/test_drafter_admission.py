"""Which sessions a drafter takes, and why it refuses the others."""

from dataclasses import replace

import pytest

from drafthouse.config.serving import DrafterConfig
from drafthouse.noise import NOISE_VERSION
from drafthouse.wire.session_messages import Close, Commit, Dropped, Opened, Refused, Scope
from tests.engine.scripted import CONTEXT, VOCAB_SIZE
from tests.engine.test_drafter_engine import opening, scripted


@pytest.mark.parametrize(
    ("change", "reason", "scope"),
    [
        ({"noise_version": NOISE_VERSION + 1}, "noise version", Scope.PAIR),
        ({"vocabulary": "another"}, "the target's tokenizer names other tokens than the draft's", Scope.PAIR),
        ({"tokens": (1, VOCAB_SIZE), "vocab_size": 20}, "token 16 is none of this draft's, whose vocabulary has 16", Scope.SEQUENCE),
        ({"tokens": (1,) * CONTEXT}, f"{CONTEXT} tokens, the draft's context is {CONTEXT}", Scope.SEQUENCE),
    ],
)
def test_refusals_say_why_and_for_how_long(change: dict[str, object], reason: str, scope: Scope) -> None:
    engine = scripted()
    engine.admission.vocabulary = "ours"
    (_, answer), *rest = engine.handle("v", replace(opening("s", [1, 2, 3]), **change))  # type: ignore[arg-type]
    assert isinstance(answer, Refused)
    assert reason in answer.reason
    assert answer.scope == scope
    assert not rest
    assert not engine.sessions


def test_refused_for_want_of_places_or_kv_slots() -> None:
    for engine, reason in ((scripted(config=DrafterConfig(max_sessions=1)), "1 sessions"), (scripted(slots=250), "no KV slots")):
        assert isinstance(engine.handle("v", opening("a", [1, 2, 3]))[0][1], Opened)
        answer = engine.handle("v", opening("b", [1, 2, 3]))[0][1]
        assert isinstance(answer, Refused)
        assert reason in answer.reason
        assert answer.scope == Scope.MOMENT
        engine.handle("v", Close("a", 1))
        assert isinstance(engine.handle("v", opening("b", [1, 2, 3]))[0][1], Opened), "a closed session leaves its place"


def test_what_sessions_have_grown_by_counts_at_the_next_admission() -> None:
    engine = scripted(slots=420)
    engine.handle("v", opening("a", [1, 2, 3]))
    engine.handle("v", Commit("a", 1, 3, (1,) * 20, 0.0))
    assert isinstance(engine.handle("v", opening("b", [1, 2, 3]))[0][1], Refused), "23 + 200 of a, 3 + 200 for b"
    engine.handle("v", Close("a", 1))
    assert isinstance(engine.handle("v", opening("b", [1, 2, 3]))[0][1], Opened)


@pytest.mark.parametrize("change", [{"vocab_size": VOCAB_SIZE + 4}, {"vocab_size": VOCAB_SIZE - 4}, {"vocabulary": "ours"}, {}])
def test_an_output_layer_of_another_size_is_no_reason_to_refuse(change: dict[str, object]) -> None:
    """Nor is a vocabulary that one side does not know."""
    engine = scripted()
    engine.admission.vocabulary = "ours"
    answers = engine.handle("v", replace(opening("s", [1, 2, 3]), **change))  # type: ignore[arg-type]
    assert isinstance(answers[0][1], Opened)


def test_a_prompt_for_which_all_kv_slots_are_too_few_is_refused_for_good() -> None:
    answer = scripted(slots=150).handle("v", opening("a", [1, 2, 3]))[0][1]
    assert answer == Refused("a", 1, "203 KV slots needed, this drafter has 150", Scope.SEQUENCE)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ((1, VOCAB_SIZE), "token 16 is none of this draft's, whose vocabulary has 16"),
        ((1,) * CONTEXT, "67 tokens, the draft's context is 64"),
    ],
)
def test_a_commit_that_the_draft_cannot_follow_ends_the_session_for_good(tokens: tuple[int, ...], reason: str) -> None:
    engine = scripted()
    engine.handle("v", opening("a", [1, 2, 3]))
    assert engine.handle("v", Commit("a", 1, 3, tokens, 0.0)) == [("v", Dropped("a", 1, reason, Scope.SEQUENCE))]
    assert not engine.sessions
    assert engine.admission.reserved_slots == 0
