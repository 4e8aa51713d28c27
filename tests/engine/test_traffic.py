"""Finished requests as drafts for later ones: by cache key alone, in the drafter and in the verifier, through their messages."""

from dataclasses import replace

import pytest

from drafter.engine import DrafterEngine
from drafter.without_model import WithoutModel
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.noise import NOISE_VERSION
from drafthouse.stages.build import placed
from drafthouse.stages.suffix import Traffic
from drafthouse.wire.session_messages import Close, Grow, Open, from_drafter_proto, to_drafter_proto
from simulator.one_process import OneProcess
from tests.engine.oracle import greedy
from tests.engine.pairs import FLAT, GREEDY, loaded, prompts, request
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine

LIMIT = 400
TREE = TreeConfig(max_nodes=48)
PROMPT = prompts(1, shortest=12, longest=12)[0]
OUTPUT = 24


def suffix_stage(placement: str, limit: int = LIMIT) -> DrafterConfig:
    stage = {"kind": "suffix", "traffic_tokens": limit, "placement": placement}
    return DrafterConfig.model_validate({"stages": [stage]})


def drafter(limit: int = LIMIT) -> DrafterEngine:
    return DrafterEngine(WithoutModel(256, 512, "none"), None, suffix_stage("drafter", limit), TREE, clock=lambda: 0.0)


def pair(placement: str) -> OneProcess:
    """A verifier with the stage in a drafter's process or in its own."""
    config = suffix_stage(placement)
    stages = placed(config.stages, "verifier", None, 256)
    verifier = VerifierEngine(loaded(tiny("llama")), FLAT, VerifierConfig(), TREE, lambda: 0.0, stages)
    return OneProcess(verifier, [] if stages else [drafter()])


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> list[Traffic]:
    """The memories of suffix stages that the test makes."""
    made: list[Traffic] = []
    monkeypatch.setattr("drafthouse.stages.build.Traffic", lambda limit: made.append(Traffic(limit)) or made[-1])
    return made


@pytest.mark.parametrize(("placement", "mode"), [("drafter", "fixed"), ("verifier", "auto")])
def test_a_keys_next_request_is_drafted_from_its_last_and_nobody_elses_is(placement: str, mode: str) -> None:
    """Mode `fixed` waits for the drafter's tree whatever it is worth; stages in the verifier serve mode `auto`."""
    process, truth = pair(placement), greedy(tiny("llama"), PROMPT, OUTPUT)
    accepted = {}
    for i, key in enumerate(["mine", "other", "", "mine", "other", ""]):
        before = process.verifier.totals.accepted
        asked = replace(request(f"{i}", PROMPT, OUTPUT, mode=mode), cache_key=key)
        assert process.generate([asked])[asked.request_id] == truth
        accepted[i] = process.verifier.totals.accepted - before
    first, again = accepted[0], accepted[3]
    assert again > first + OUTPUT // 2, "the same text once more is all known"
    assert (accepted[1], accepted[4]) == (first, again), "the other key has its own memory"
    assert accepted[2] == accepted[5] == first, "without a key nothing is remembered"


def opened(engine: DrafterEngine, session: str, key: str, tokens: list[int]) -> list[int]:
    """Tokens of the tree that a session starts with; its messages go through protobuf."""
    message = Open(session, 1, tuple(tokens), GREEDY, 5, NOISE_VERSION, "f", 48, 16, 0.0, 256, cache_key=key)
    answers = engine.handle("v", from_drafter_proto(to_drafter_proto(message)))
    [grow] = [answer for _, answer in answers if isinstance(answer, Grow)]
    return grow.nodes.tokens


def closed(engine: DrafterEngine, session: str, finished: bool = True) -> None:
    engine.handle("v", from_drafter_proto(to_drafter_proto(Close(session, 1, finished))))


def test_a_drafters_sessions_find_what_their_key_left_whoever_had_it_since() -> None:
    engine, secret = drafter(), list(range(100, 140))
    assert opened(engine, "a", "mine", secret) == []
    assert opened(engine, "b", "mine", secret[:8]) == [], "an open session is nobody's past"
    closed(engine, "a")
    assert opened(engine, "c", "other", secret[:8]) == []
    assert opened(engine, "d", "", secret[:8]) == []
    assert opened(engine, "e", "mine", secret[:8])[:8] == secret[8:16]
    closed(engine, "c")
    assert opened(engine, "f", "other", secret[:8]) == [], "its own session c left these eight tokens and no more"


def test_a_session_that_ends_before_its_request_leaves_nothing(traffic: list[Traffic]) -> None:
    engine, text = drafter(), list(range(100, 140))
    for session in "abc":
        opened(engine, session, "mine", text)
    closed(engine, "a", finished=False)  # parked, re-paired or cancelled
    engine.forget_peer("v")
    opened(engine, "d", "mine", text)
    engine.drain()
    assert traffic[0].tokens == 0


def test_memory_stays_bounded(traffic: list[Traffic]) -> None:
    engine = drafter(limit=60)
    for i in range(30):
        opened(engine, f"{i}", f"key {i % 7}", [i * 7 % 256] * 3 + list(range(i, i + 40)))
        closed(engine, f"{i}")
        assert 0 < traffic[0].tokens <= 60
    assert opened(engine, "again", "key 1", list(range(29, 40)))[:3] == [40, 41, 42]


@pytest.mark.parametrize(("placement", "mode"), [("drafter", "fixed"), ("verifier", "auto")])
def test_a_request_is_remembered_once_when_it_finishes_and_not_when_it_is_cancelled(
    placement: str, mode: str, traffic: list[Traffic]
) -> None:
    process = pair(placement)
    draft_sessions = process.verifier.draft_sessions
    process.verifier.submit(replace(request("gone", PROMPT, OUTPUT, mode=mode), cache_key="mine"))
    while process.verifier.sequences["gone"].output_len < OUTPUT // 2:
        process.turn()
    process.verifier.cancel("gone", 1)
    process.verifier.submit(replace(request("a", PROMPT, OUTPUT, mode=mode), cache_key="mine"))
    for _ in range(3):
        process.turn()
        draft_sessions.park(process.verifier.sequences["a"])
    process.turn()
    assert traffic[0].tokens == 0
    while process.verifier.sequences:
        process.turn()
    process.turn()
    assert len(PROMPT) < traffic[0].tokens <= len(PROMPT) + OUTPUT
