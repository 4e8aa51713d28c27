"""How answers reach clients of every kind: those that wait, do not read, speak HTTP/1.0, or are a page in a browser."""

import asyncio
import json
import logging

import pytest

from tests.unit.openai_gateway import COMPLETION, IDS, JSON, TEXT, error_of, gateway, request
from tests.unit.verifier_double import VerifierDouble, forever

BAD = "invalid_request_error"
STREAM = json.dumps(COMPLETION | {"stream": True}).encode()
PAGE = "https://chat.example.com"


def scope_of(http_version: str = "1.1") -> dict:
    headers = [(b"content-type", b"application/json")]
    path = "/v1/completions"
    return {"type": "http", "http_version": http_version, "method": "POST", "path": path, "query_string": b"", "headers": headers}


def receive_stream():
    """A client that stays: the body once, and then nothing."""
    messages = iter([{"type": "http.request", "body": STREAM, "more_body": False}])

    async def receive():
        return next(messages, None) or await asyncio.Event().wait()

    return receive


def body_of(sent: list[dict]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def test_a_stream_that_waits_shows_life():
    """The status comes with the first comment, the text after it, and no comment inside an event."""
    go = asyncio.Event()

    async def before(index, context):
        await go.wait()

    async def run():
        sent: list[dict] = []

        async def send(message):
            sent.append(message)
            if body_of(sent).count(b": waiting\n\n") == 2:
                go.set()

        async with gateway(VerifierDouble("a", tokens=lambda request: IDS, before=before), keep_alive_s=0.02) as (app, _):
            await asyncio.wait_for(app(scope_of(), receive_stream(), send), 30.0)
        return sent

    sent = asyncio.run(run())
    assert sent[0]["status"] == 200
    events = [event for event in body_of(sent).decode().split("\n\n") if event and event != ": waiting"]
    assert events[-1] == "data: [DONE]"
    assert "".join(json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-1]) == TEXT
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}, "nothing follows the end"


def test_a_client_that_goes_away_while_its_stream_waits_frees_its_place():
    async def run():
        waits = VerifierDouble("a", before=forever)
        async with gateway(waits, keep_alive_s=0.02) as (app, service):
            begun = asyncio.Event()

            async def send(message):
                begun.set()

            task = asyncio.create_task(app(scope_of(), receive_stream(), send))
            await asyncio.wait_for(begun.wait(), 10.0)
            assert service.running == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(waits.cancelled.wait(), 10.0)
            assert service.running == 0

    asyncio.run(run())


@pytest.mark.parametrize("stuck_at", ["text", "comment"])
def test_a_client_that_does_not_read_loses_its_place(stuck_at, caplog):
    async def run():
        verifier = VerifierDouble("a", tokens=lambda request: IDS, before=forever if stuck_at == "comment" else None)
        async with gateway(verifier, keep_alive_s=0.02, write_timeout_s=0.05) as (app, service):

            async def send(message):
                if message.get("body"):
                    await asyncio.sleep(60)

            await asyncio.wait_for(app(scope_of(), receive_stream(), send), 10.0)
            while service.running:
                await asyncio.sleep(0.005)
            assert service.totals().outcome["cancelled"] == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "took nothing" in caplog.text


def test_http_1_0_gets_its_stream_whole_with_its_length():
    async def run():
        sent: list[dict] = []

        async def send(message):
            sent.append(message)

        async with gateway() as (app, _):
            await app(scope_of("1.0"), receive_stream(), send)
        return sent

    start, body = asyncio.run(run())
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert body["body"].endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded", ""])
def test_other_media_types_are_refused(kind):
    """With these a page may send without asking first."""
    found = error_of(request("/v1/completions", COMPLETION, headers={"content-type": kind} if kind else {}))
    assert found == (415, BAD, None, "unsupported_media_type")


def test_json_may_say_its_charset():
    assert request("/v1/completions", COMPLETION, headers={"content-type": "application/json; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize("content", [b"[]", b"1", b'"a"', b"null"])
def test_a_body_that_is_no_object_is_told_so(content):
    response = request("/v1/completions", content=content)
    assert error_of(response) == (400, BAD, None, "invalid_value")
    assert response.json()["error"]["message"] == "the body must be a JSON object"


def test_the_list_of_models_may_end_in_a_slash():
    assert request("/v1/models/").json() == request("/v1/models").json()


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v1/models", "/v1/models/demo", "/v1/cluster"])
def test_what_can_be_read_answers_head_and_options(path):
    assert request(path, method="HEAD").status_code == 200
    options = request(path, method="OPTIONS")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")
    assert "access-control-allow-origin" not in options.headers


def test_pages_of_configured_origins_may_call():
    asked = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    question = request("/v1/completions", method="OPTIONS", headers=asked, cors_origins=[PAGE])
    assert (question.status_code, question.headers["access-control-allow-origin"]) == (200, PAGE)
    answer = request("/v1/completions", COMPLETION, headers=JSON | {"origin": PAGE}, cors_origins=[PAGE])
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    other = request("/v1/completions", method="OPTIONS", headers=asked | {"origin": "https://other.example"}, cors_origins=[PAGE])
    assert "access-control-allow-origin" not in other.headers
