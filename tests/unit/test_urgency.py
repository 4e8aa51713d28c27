"""Priorities and objectives: from bodies, keys and configuration to what verifiers are told, also after one has failed."""

import asyncio
from dataclasses import replace

import pytest
from pydantic import ValidationError

from deployments.api.grpc.requests import make_plan
from deployments.cli.urgency_options import urgency_fields
from deployments.gateway.request_planner import RequestPlanner
from drafthouse.config.security import ApiKeysConfig
from drafthouse.config.urgency import UrgencyConfig
from drafthouse.errors import ConfigError, RequestError
from drafthouse.objective import Objective, UrgencyWish
from drafthouse.security.api_keys import ApiKeys, hash_of
from protos import inference_pb2 as pb
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.linked import REQUEST, collect, linked
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, request
from tests.unit.verifier_double import VerifierDouble, cut_at

KEY = "dh-a-key-of-some-length-for-tests"
SPECULATION = {"objective": {"first_token_ms": 500, "per_token_ms": 40.5}}
OBJECTIVE = Objective(0.5, 0.0405)
BODIES = {
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "demo", "input": "hello", "max_output_tokens": len(IDS)},
    "/v1/messages": {"model": "demo", "messages": CHAT["messages"], "max_tokens": len(IDS)},
}


def seen_of(path: str, body: dict[str, object], headers: dict[str, str] | None = None, **options):
    verifier = VerifierDouble("a", tokens=lambda request: IDS)
    sent = {"content-type": "application/json"} | (headers or {})
    response = request(path, BODIES[path] | body, verifier=verifier, headers=sent, **options)
    assert response.status_code == 200, response.text
    return verifier.seen[0]


@pytest.mark.parametrize("path", BODIES)
def test_every_text_endpoint_takes_both(path):
    seen = seen_of(path, {"priority": -1, "speculation": SPECULATION})
    assert (seen.priority, seen.objective) == (-1, OBJECTIVE)
    assert 0.0 < seen.waited_s < 60.0
    assert seen.since_first_s == 0.0


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"priority": -3}, "priority"),
        ({"priority": 0.5}, "priority"),
        ({"speculation": {"objective": {"first_token_ms": 0}}}, "speculation.objective.first_token_ms"),
        ({"speculation": {"objective": {"per_token_ms": 1e9}}}, "speculation.objective.per_token_ms"),
        ({"speculation": {"objective": {"per_token": 5}}}, "speculation.objective.per_token"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_name(path, body, field):
    response = request(path, BODIES[path] | body)
    assert response.status_code == 400
    assert field in response.json()["error"]["message"]


def test_requests_that_say_nothing_are_as_the_configuration_has_them():
    urgency = {"priority": 1, "first_token_ms": 300.0}
    seen = seen_of("/v1/completions", {}, urgency=urgency)
    assert (seen.priority, seen.objective) == (1, Objective(first_token_s=0.3))
    seen = seen_of("/v1/completions", {"speculation": {"objective": {"per_token_ms": 20}}}, urgency=urgency)
    assert (seen.priority, seen.objective) == (1, Objective(0.3, 0.02)), "field by field"
    plain = seen_of("/v1/completions", {})
    assert (plain.priority, plain.objective, plain.waited_s) == (0, None, 0.0)


def test_a_key_has_its_own_and_may_not_ask_for_more(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{hash_of(KEY)} priority=1 per_token_ms=30.5 streams=3\n", encoding="utf-8")
    keys, headers = ApiKeys(ApiKeysConfig(file=path)), {"authorization": f"Bearer {KEY}"}
    assert keys.urgency_of(hash_of(KEY)) == UrgencyWish(1, None, 30.5)
    assert keys.limits_of(hash_of(KEY)) == {"streams": 3}
    seen = seen_of("/v1/completions", {}, headers, keys=keys, urgency={"first_token_ms": 900, "per_token_ms": 70})
    assert (seen.priority, seen.objective) == (1, Objective(0.9, 0.0305))
    assert seen_of("/v1/completions", {"priority": 2}, headers, keys=keys).priority == 2
    answer = request("/v1/completions", COMPLETION | {"priority": 0}, headers=headers | {"content-type": "application/json"}, keys=keys)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "priority 0 is more urgent than this API key may ask for, which is 1"
    assert answer.json()["error"]["param"] == "priority"


@pytest.mark.parametrize(
    ("settings", "said"),
    [("priority=-3", "line 1: priority must be between -2 and 2"), ("first_token_ms=0", "line 1: speculation.objective.first_token_ms"),
     ("per_token_ms=none", "line 1 is not a hash"), ("priority=high", "line 1 is not a hash")],
)  # fmt: skip
def test_what_a_keys_line_says_wrong_is_named(tmp_path, settings, said):
    path = tmp_path / "keys"
    path.write_text(f"{hash_of(KEY)} {settings}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        ApiKeys(ApiKeysConfig(file=path))


def test_the_configuration_bounds_what_may_be_asked_for():
    config = UrgencyConfig(priority=1, highest_priority=0)
    assert config.settle(UrgencyWish(0), UrgencyWish()).priority == 0
    assert config.settle(UrgencyWish(), UrgencyWish()).priority == 1
    assert config.settle(UrgencyWish(-1), UrgencyWish(-2)).priority == -1, "a key's own lifts the bound"
    with pytest.raises(RequestError, match="priority -1 is more urgent than requests here may ask for, which is 0"):
        config.settle(UrgencyWish(-1), UrgencyWish())
    for wrong in ({"priority": -1, "highest_priority": 0}, {"priority": 3}, {"per_token_ms": 0}, {"first_token": 1}):
        with pytest.raises(ValidationError):
            UrgencyConfig.model_validate(wrong)


def test_grpc_takes_both():
    planner = RequestPlanner("demo", codec(), metadata())
    objective = pb.Objective(first_token_ms=500, per_token_ms=40.5)
    sent = pb.GenerateRequest(model="demo", prompt="hello", priority=-2, speculation=pb.Speculation(objective=objective))
    assert make_plan(planner, sent.SerializeToString()).urgency == UrgencyWish(-2, 500.0, 40.5)
    sent.speculation.objective.per_token_ms = 0
    with pytest.raises(RequestError, match=r"speculation\.objective\.per_token_ms must be between"):
        make_plan(planner, sent.SerializeToString())


def test_after_a_verifier_has_failed_the_next_one_knows_all_of_it():
    async def run():
        first, second = VerifierDouble("a", before=cut_at(2)), VerifierDouble("b", load=7)
        asked = replace(REQUEST, priority=-1, objective=OBJECTIVE, waited_s=3.0)
        async with linked(first, second) as link:
            await collect(link, asked)
        (begun,), (resumed,) = first.seen, second.seen
        assert (begun.priority, begun.objective) == (resumed.priority, resumed.objective) == (-1, OBJECTIVE)
        assert 3.0 <= begun.waited_s < resumed.waited_s < 63.0
        assert begun.since_first_s == 0.0 < resumed.since_first_s < resumed.waited_s - 3.0

    asyncio.run(run())


def test_the_commands_options_make_the_same_fields():
    assert urgency_fields(None, None, None, {}) == {}
    assert urgency_fields(-1, 500.0, None, {"mode": "auto"}) == {
        "speculation": {"mode": "auto", "objective": {"first_token_ms": 500.0}}, "priority": -1,
    }  # fmt: skip
