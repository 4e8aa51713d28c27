"""One line for each request: who asked, what came of it, and never a key or a text."""

import asyncio
import json
import logging

import httpx
import pytest

from deployments.gateway.request_log import MAX_KEYS, OTHER_KEYS, RequestLog, RequestRecord
from drafthouse.sampling import SamplingParams
from drafthouse.security.api_keys import hash_of
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from tests.unit.openai_gateway import COMPLETION, IDS, gateway

KEY = "dh-a-key-of-twenty-characters"


def _fields(caplog) -> list[dict]:
    return [record.fields for record in caplog.records if getattr(record, "fields", {}).get("event") == "request"]


def _ask(body: dict, content: bytes | None = None, routed: bool = True):
    async def run():
        async with gateway() as (app, service):
            service.log.request_id = lambda: "the client's id"
            if not routed:
                service.link.update(())
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                headers = {"content-type": "application/json"}
                return await client.post("/v1/completions", content=content or json.dumps(body).encode(), headers=headers), service

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "deployments")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_was_served_has_one_line(caplog, stream):
    answer, service = _ask({**COMPLETION, "stream": stream})
    assert answer.status_code == 200
    (fields,) = _fields(caplog)
    told = {name: fields[name] for name in ("request_id", "model", "outcome", "finish_reason", "completion_tokens", "attempts")}
    assert told == {
        "request_id": "the client's id", "model": "demo", "outcome": "served", "finish_reason": "length",
        "completion_tokens": len(IDS), "attempts": 1,
    }  # fmt: skip
    assert fields["verifiers"] == ["a"]
    assert 0 < fields["first_token_seconds"] <= fields["seconds"]
    assert "hello" not in json.dumps(fields), "a prompt is not logged"
    assert service.log.totals() == {"finish.length": 1, "key_tokens.none": fields["prompt_tokens"] + len(IDS)}
    assert list(service.log.samples["completion_length"]) == [len(IDS)]


def test_choices_have_lines_of_their_own_under_one_id(caplog):
    _ask({**COMPLETION, "n": 3, "temperature": 1.0})
    assert len({fields["id"] for fields in _fields(caplog)}) == 3
    assert {fields["request_id"] for fields in _fields(caplog)} == {"the client's id"}


def test_a_request_without_a_verifier_is_a_warning(caplog):
    answer, _ = _ask(COMPLETION, routed=False)
    assert answer.status_code == 503
    assert [(record.levelname, record.fields["outcome"]) for record in caplog.records if hasattr(record, "fields")] == [
        ("WARNING", "unavailable")
    ]


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"nonsense": 1}, {"model": "other"}, {"prompt": 1.5}], ids=str)
def test_a_request_that_is_wrong_has_a_line_too(caplog, wrong):
    answer, service = _ask({**COMPLETION, **wrong})
    assert answer.status_code in (400, 404)
    assert service.totals().outcome["rejected"] == 1
    (fields,) = _fields(caplog)
    assert (fields["outcome"], fields["request_id"]) == ("rejected", "the client's id")


def _request(key: str) -> GenerateRequest:
    return GenerateRequest(
        request_id="cmpl-1-0", attempt=1, prompt=(1, 2), delivered=(), sampling=SamplingParams(), seed=1, max_tokens=4,
        stop_tokens=(), speculation=Speculation(), cache_key=hash_of(key),
    )  # fmt: skip


def test_a_key_is_named_by_the_beginning_of_its_hash(caplog):
    log = RequestLog("demo", str)
    log.ended(RequestRecord(_request(KEY), "", 0.0), "cancelled")
    assert _fields(caplog)[0]["key"] == hash_of(KEY)[:19]
    assert KEY not in caplog.text
    assert hash_of(KEY) not in json.dumps(_fields(caplog))


def test_metrics_have_a_bounded_number_of_keys():
    log = RequestLog("demo", str)
    for number in range(MAX_KEYS + 5):
        log.ended(RequestRecord(_request(f"{KEY}{number}"), "", 0.0), "served")
    totals = log.totals()
    assert len(totals) == MAX_KEYS + 1
    assert totals[f"key_tokens.{OTHER_KEYS}"] == 5 * 2


def test_the_time_to_the_first_token_begins_before_the_body_is_read():
    """The body takes as long as the test lets it: no clock is compared with another."""

    async def run():
        async with gateway() as (app, service):
            begun = []

            async def slow_body():
                begun.append(asyncio.get_running_loop().time())
                yield json.dumps(COMPLETION).encode()
                await asyncio.sleep(0.05)
                begun.append(asyncio.get_running_loop().time())

            messages = [{"type": "http.request", "body": b"", "more_body": False}]
            parts = slow_body()

            async def receive():
                async for part in parts:
                    return {"type": "http.request", "body": part, "more_body": True}
                if messages:
                    return messages.pop()
                await asyncio.Event().wait()  # the client stays

            async def send(message):
                return None

            scope = {
                "type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"",
                "headers": [(b"content-type", b"application/json")], "scheme": "http", "server": ("test", 80), "client": ("test", 1),
                "http_version": "1.1", "asgi": {"version": "3.0"},
            }  # fmt: skip
            await asyncio.wait_for(app(scope, receive, send), 20)
            return begun[1] - begun[0], list(service.latencies.samples["first_token_seconds"])

    body_s, (first_token_s,) = asyncio.run(run())
    assert first_token_s >= body_s
