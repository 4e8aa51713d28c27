"""/openapi.json: every route stands in it, and what it says of bodies, answers and keys is what the server does."""

import asyncio
import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from deployments.api.anthropic.schema import MessagesRequest
from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.openapi import OPEN_ROUTES
from deployments.api.openai.schema import CompletionRequest
from deployments.api.responses.schema import ResponsesRequest
from drafthouse.config.security import ApiKeysConfig
from drafthouse.errors import OverloadError, RequestError
from drafthouse.security.api_keys import generate_key, hash_of, load_api_keys
from tests.unit.openai_gateway import CHAT, COMPLETION, gateway, request
from tests.unit.test_responses_form import events_of

KEY = generate_key()
RESPONSE = {"model": "demo", "input": "hello"}
KINDS = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/messages": MessagesRequest,
    "/v1/responses": ResponsesRequest,
}
BODIES = {"/v1/completions": COMPLETION, "/v1/chat/completions": CHAT, "/v1/messages": CHAT, "/v1/responses": RESPONSE}


CHAT_PROMPT = {name: value for name, value in CHAT.items() if name != "max_tokens"}


@cache
def document() -> dict[str, Any]:
    whole: dict[str, Any] = request("/openapi.json").json()
    return whole


def validator(whole: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": whole["components"]})


def operations(whole: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, method): what for path, methods in whole["paths"].items() for method, what in methods.items()}


def test_each_route_stands_in_the_document_and_the_other_way_round() -> None:
    async def routes() -> set[tuple[str, str]]:
        async with gateway() as (app, _):
            assert all(isinstance(route, Route) for route in app.routes), "a mounted application has routes of its own"
            return {(route.path_format, method.lower()) for route in app.routes for method in route.methods}

    found = operations(document())
    assert set(found) == asyncio.run(routes())
    names = [operation["operationId"] for operation in found.values()]
    assert len(names) == len(set(names))
    assert all(operation["description"] for operation in found.values())


def test_every_name_that_is_referred_to_stands_there_and_no_other() -> None:
    whole = document()
    schemas = set(whole["components"]["schemas"])

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert references(whole) == {f"#/components/schemas/{name}" for name in schemas}


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {}, {"model": "other"}, {"model": None}, {"nonsense": 1}, {"max_tokens": 0}, {"max_tokens": None}, {"n": 17}, {"seed": -1},
        {"stop": "a"}, {"stop": [1]}, {"stream": "yes"}, {"speculation": {"mode": "off"}}, {"speculation": {"mode": "no"}},
        {"speculation": {"node": 1}}, {"prompt": 7}, {"prompt": ["a"]}, {"prompt": [1, 2]}, {"prompt": [[1], [2]]}, {"prompt": [[1], "a"]},
        {"messages": []}, {"messages": [{"role": "robot", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, {"suffix": ""}, {"suffix": "a"}, {"audio": {}},
        {"store": False}, {"store": True}, {"store": 0}, {"modalities": ["text"]}, {"modalities": ["audio"]},
        {"input": [{"role": "user", "content": "a"}]}, {"input": [{"type": "reasoning"}]},
        {"input": [{"type": "item_reference", "id": "a"}]}, {"input": []}, {"tools": [{"type": "function", "name": "a"}]},
        {"tools": [{"type": "web_search"}]}, {"background": True}, {"truncation": "disabled"}, {"reasoning": {"effort": "low"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_body_fits_its_schema_if_it_is_taken(path: str, change: dict[str, Any]) -> None:
    body, kind = BODIES[path] | change, KINDS[path]
    try:
        parse_body(kind, body, "demo")
        taken = True
    except RequestError:
        taken = False
    assert validator(document(), kind.__name__).is_valid(body) is taken


def fails(error: Exception) -> Any:
    async def asked() -> dict[str, Any]:
        raise error

    return asked


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/v1/completions", {"body": COMPLETION}, 200),
        ("POST", "/v1/chat/completions", {"body": CHAT}, 200),
        ("POST", "/v1/completions", {"body": COMPLETION | {"n": "1"}}, 400),
        ("POST", "/v1/completions", {"body": COMPLETION | {"model": "x"}}, 404),
        ("POST", "/v1/completions", {"body": COMPLETION, "headers": {}}, 415),
        ("POST", "/v1/completions", {"body": COMPLETION | {"prompt": "a" * 5000}, "max_body_bytes": 4096}, 413),
        ("POST", "/v1/completions", {"body": COMPLETION | {"n": 2}, "limits": {"streams": 2}, "capacity": 0}, 429),
        ("POST", "/v1/chat/completions", {"body": CHAT, "routed": False}, 503),
        ("POST", "/v1/messages", {"body": CHAT}, 200),
        ("POST", "/v1/messages", {"body": CHAT | {"n": 1}}, 400),
        ("POST", "/v1/messages", {"body": CHAT, "capacity": 0}, 429),
        ("POST", "/v1/messages/count_tokens", {"body": CHAT_PROMPT}, 200),
        ("POST", "/v1/messages/count_tokens", {"body": CHAT}, 400),
        ("POST", "/v1/responses", {"body": RESPONSE}, 200),
        ("POST", "/v1/responses", {"body": RESPONSE | {"n": 2}}, 400),
        ("POST", "/v1/responses", {"body": RESPONSE, "routed": False}, 503),
        ("GET", "/v1/models", {}, 200),
        ("GET", "/v1/models/{name}", {}, 404),
        ("GET", "/v1/cluster", {}, 200),
        ("GET", "/v1/cluster", {"cluster": fails(OverloadError("no", 1.0))}, 503),
        ("GET", "/health/live", {}, 200),
        ("GET", "/health/ready", {}, 200),
        ("GET", "/health/ready", {"routed": False}, 503),
        ("GET", "/health", {}, 200),
        ("GET", "/health", {"routed": False}, 503),
        ("HEAD", "/health/ready", {"routed": False}, 503),
        ("GET", "/openapi.json", {}, 200),
    ],
)  # fmt: skip
def test_what_is_answered_is_what_the_document_says(method: str, path: str, options: dict[str, Any], status: int) -> None:
    whole = document()
    answer = request(path, method=method, **options)
    assert answer.status_code == status, answer.text
    said = operations(whole)[path, method.lower()]["responses"][str(status)]
    assert {name.lower() for name in said.get("headers", {})} <= {name.lower() for name in answer.headers}
    if method == "HEAD":
        assert "content" not in said
        return
    schema = said["content"][answer.headers["content-type"]]["schema"]
    Draft202012Validator({**schema, "components": whole["components"]}).validate(answer.json())


def test_each_event_of_a_stream_fits_the_answers_schema() -> None:
    whole = document()
    said = operations(whole)["/v1/completions", "post"]["responses"]["200"]["content"]
    assert set(said) == {"application/json", "text/event-stream"}
    streamed = request("/v1/completions", COMPLETION | {"stream": True, "stream_options": {"include_usage": True}})
    for line in streamed.text.split("\n\n")[:-2]:
        validator(whole, "Response").validate(json.loads(line.removeprefix("data: ")))


def test_each_event_of_a_response_fits_the_schema_of_events() -> None:
    whole = document()
    said = operations(whole)["/v1/responses", "post"]["responses"]["200"]["content"]
    assert set(said) == {"application/json", "text/event-stream"}
    schema = said["text/event-stream"]["itemSchema"]["properties"]["data"]["anyOf"][0]["contentSchema"]
    fits = Draft202012Validator({**schema, "components": whole["components"]})
    streamed = events_of(request("/v1/responses", RESPONSE | {"stream": True}).text)
    assert len(streamed) > 6
    for event in streamed:
        fits.validate(event)
        assert not fits.is_valid(event | {"type": "response.else"})


def test_with_keys_the_document_asks_for_them_and_needs_one_itself() -> None:
    keys = load_api_keys(ApiKeysConfig(hashes=(hash_of(KEY),)))
    refused = request("/openapi.json", keys=keys)
    assert refused.status_code == 401
    whole = request("/openapi.json", keys=keys, headers={"Authorization": f"Bearer {KEY}"}).json()
    assert whole["components"]["securitySchemes"] == {"api_key": {"type": "http", "scheme": "bearer"}}
    for (path, _), operation in operations(whole).items():
        secured = path not in OPEN_ROUTES
        assert (operation.get("security"), "401" in operation["responses"]) == ([{"api_key": []}] if secured else None, secured)
    validator(whole, "ErrorBody").validate(refused.json())
    assert "security" not in str(document())
