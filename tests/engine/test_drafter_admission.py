"""Which sessions a drafter takes, and why it refuses the others."""

from dataclasses import replace

import pytest

from drafthouse.config.serving import DrafterConfig
from drafthouse.noise import NOISE_VERSION
from drafthouse.wire.session_messages import Close, Commit, Opened, Refused
from tests.engine.scripted import CONTEXT, VOCAB_SIZE
from tests.engine.test_drafter_engine import opening, scripted


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_version": NOISE_VERSION + 1}, "noise version"),
        ({"vocab_size": VOCAB_SIZE + 1}, "vocabulary of 17 tokens, this draft has 16"),
        ({"tokens": (1,) * CONTEXT}, f"{CONTEXT} tokens, the draft's context is {CONTEXT}"),
    ],
)
def test_refusals_say_why(change: dict[str, object], reason: str) -> None:
    engine = scripted()
    (_, answer), *rest = engine.handle("v", replace(opening("s", [1, 2, 3]), **change))  # type: ignore[arg-type]
    assert isinstance(answer, Refused)
    assert reason in answer.reason
    assert not rest
    assert not engine.sessions


def test_refused_for_want_of_places_or_kv_slots() -> None:
    for engine, reason in ((scripted(config=DrafterConfig(max_sessions=1)), "1 sessions"), (scripted(slots=250), "no KV slots")):
        assert isinstance(engine.handle("v", opening("a", [1, 2, 3]))[0][1], Opened)
        answer = engine.handle("v", opening("b", [1, 2, 3]))[0][1]
        assert isinstance(answer, Refused)
        assert reason in answer.reason
        engine.handle("v", Close("a", 1))
        assert isinstance(engine.handle("v", opening("b", [1, 2, 3]))[0][1], Opened), "a closed session leaves its place"


def test_what_sessions_have_grown_by_counts_at_the_next_admission() -> None:
    engine = scripted(slots=420)
    engine.handle("v", opening("a", [1, 2, 3]))
    engine.handle("v", Commit("a", 1, 3, (1,) * 20, 0.0))
    assert isinstance(engine.handle("v", opening("b", [1, 2, 3]))[0][1], Refused), "23 + 200 of a, 3 + 200 for b"
    engine.handle("v", Close("a", 1))
    assert isinstance(engine.handle("v", opening("b", [1, 2, 3]))[0][1], Opened)
