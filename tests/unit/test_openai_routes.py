"""The HTTP API over a real verifier stream: OpenAI's shapes, statuses, events, and cancellation."""

import asyncio
import json
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest

from deployments.inference_service import InferenceService
from deployments.openai_routes import build_http_app
from deployments.request_factory import RequestFactory
from deployments.verifier_link import VerifierLink
from tests.unit.byte_tokenizer import codec, limits
from tests.unit.verifier_double import VerifierDouble, at, forever, serving

TEXT = "def add(a, b):\n    return 'é🙂'\n"
IDS = tuple(codec().encode(TEXT))
COMPLETION = {"model": "demo", "prompt": "hello", "max_tokens": len(IDS)}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": len(IDS)}
SPECULATION = {"drafted": 9, "verified": 8, "accepted": 5, "steps": 3, "attempts": 1}


@asynccontextmanager
async def no_lifespan(app):
    yield


async def snapshot():
    return {"pools": {}}


@asynccontextmanager
async def gateway(verifier: VerifierDouble | None = None, cluster=snapshot):
    """(app, service) in front of one verifier, which always says TEXT."""
    verifiers = [verifier or VerifierDouble("a", tokens=lambda request: IDS)]
    async with serving(*verifiers) as routes:
        link = VerifierLink(patience_s=0.05)
        link.update(routes)
        service = InferenceService(RequestFactory("demo", codec(), limits()), link)
        try:
            yield build_http_app(service, cluster, no_lifespan, keys=None), service
        finally:
            await link.close()


def request(path: str, body: object = None, content: bytes | None = None, routed: bool = True, **options) -> httpx.Response:
    async def run():
        async with gateway(**options) as (app, service):
            if not routed:
                service.link.update(())
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                if body is None and content is None:
                    return await client.get(path)
                return await client.post(path, json=body) if content is None else await client.post(path, content=content)

    return asyncio.run(run())


def events(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in data]


def test_completion():
    response = request("/v1/completions", COMPLETION | {"seed": 7})
    body = response.json()
    assert response.headers["x-drafthouse-seed"] == "7"
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1.7e9
    prompt_tokens = len(codec().encode("hello"))
    assert body == {
        "object": "text_completion",
        "model": "demo",
        "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(IDS),
            "total_tokens": prompt_tokens + len(IDS),
            "speculation": SPECULATION,
        },
    }


def test_chat():
    body = request("/v1/chat/completions", CHAT).json()
    assert body["object"] == "chat.completion"
    message = {"role": "assistant", "content": TEXT}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]


def test_several_prompts_and_choices_come_in_order():
    body = request("/v1/completions", COMPLETION | {"prompt": ["a", "b"], "n": 2, "stop": "\n"}).json()
    assert [(c["index"], c["text"], c["finish_reason"]) for c in body["choices"]] == [(i, "def add(a, b):", "stop") for i in range(4)]
    assert body["usage"]["prompt_tokens"] == 2


def test_completion_stream():
    found = events(request("/v1/completions", COMPLETION | {"stream": True}))
    assert "".join(event["choices"][0]["text"] for event in found) == TEXT
    assert [event["choices"][0]["finish_reason"] for event in found] == [None] * (len(found) - 1) + ["length"]
    assert len({event["id"] for event in found}) == 1
    assert all("usage" not in event for event in found)


def test_chat_stream():
    found = events(request("/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}))
    *chunks, last = found
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == TEXT
    assert all(delta["content"] for delta in deltas[1:-1])
    assert (deltas[-1], chunks[-1]["choices"][0]["finish_reason"]) == ({}, "length")
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(IDS)
    assert last["usage"]["speculation"] == SPECULATION


def test_stream_of_several_choices_opens_each():
    found = events(request("/v1/chat/completions", CHAT | {"stream": True, "n": 3}))
    for index in range(3):
        deltas = [event["choices"][0]["delta"] for event in found if event["choices"][0]["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in deltas) == TEXT


def error_of(response: httpx.Response) -> tuple[int, str, str | None, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return response.status_code, error["type"], error["param"], error["code"]


BAD = "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/completions", {"model": "demo"}, (400, BAD, "prompt", "invalid_value")),
        ("/v1/completions", COMPLETION | {"echo": True}, (400, BAD, "echo", "unsupported_value")),
        ("/v1/completions", COMPLETION | {"metadata": {"a\ud800": 1}}, (400, BAD, "metadata", "invalid_value")),
        ("/v1/completions", COMPLETION | {"temperature": -1}, (400, BAD, "temperature", "invalid_value")),
        ("/v1/completions", COMPLETION | {"max_tokens": 500}, (400, BAD, "max_tokens", "context_length_exceeded")),
        ("/v1/completions", COMPLETION | {"model": "x", "stream": True}, (404, BAD, "model", "model_not_found")),
        ("/v1/chat/completions", CHAT | {"messages": [{"role": "x"}]}, (400, BAD, "messages.0.role", "invalid_value")),
        ("/v1/nothing", {}, (404, BAD, None, "not_found")),
        ("/v1/models", {}, (405, BAD, None, "method_not_allowed")),
    ],
)
def test_errors_have_openais_shape(path, body, expected):
    assert error_of(request(path, content=json.dumps(body).encode())) == expected


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 100_000])
def test_malformed_json(content):
    assert error_of(request("/v1/completions", content=content)) == (400, BAD, None, "invalid_json")


@pytest.mark.parametrize("stream", [False, True])
def test_overload_has_its_own_status_even_for_streams(stream):
    full = VerifierDouble("a", before=at(0, grpc.StatusCode.RESOURCE_EXHAUSTED))
    response = request("/v1/completions", COMPLETION | {"stream": stream}, verifier=full)
    assert error_of(response) == (429, "overloaded_error", None, "overloaded")
    assert response.headers["retry-after"] == "1"


def test_no_verifier():
    response = request("/v1/completions", COMPLETION, routed=False)
    assert error_of(response) == (503, "unavailable_error", None, "no_verifier")
    assert response.headers["retry-after"] == "1"


def test_an_error_after_the_first_token_is_an_event():
    breaking = VerifierDouble("a", tokens=lambda request: IDS, before=at(2, grpc.StatusCode.INVALID_ARGUMENT, "no more"))
    *chunks, error = events(request("/v1/completions", COMPLETION | {"stream": True}, verifier=breaking))
    assert chunks[0]["choices"][0]["text"]
    assert "no more" in error["error"]["message"]


def test_an_unforeseen_error_tells_nothing():
    async def broken():
        raise RuntimeError("secret path")

    assert error_of(request("/v1/cluster", cluster=broken)) == (503, "unavailable_error", None, "no_controller")
    odd = VerifierDouble("a", tokens=lambda request: 1 / 0)
    assert "division" not in request("/v1/nothing", verifier=odd).text


def test_models_health_and_cluster():
    models = request("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["demo"]
    assert models["data"][0]["max_model_len"] == limits().context_tokens
    assert request("/v1/models/demo").json() == models["data"][0]
    assert error_of(request("/v1/models/other"))[0] == 404
    assert request("/health").json() == {"status": "ok", "verifiers": 1}
    assert request("/v1/cluster").json() == {"pools": {}}


def test_health_without_a_verifier():
    response = request("/health", routed=False)
    assert response.status_code == 503
    assert response.json()["reason"]


async def asgi_post(app, path: str, body: object, sent: asyncio.Queue) -> None:
    """One request on the ASGI interface itself, whose events can be watched as they come."""
    received = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "scheme": "http", "root_path": "",
    }  # fmt: skip
    await app(scope, received.get, sent.put)


def test_the_first_token_leaves_at_once_and_a_client_that_goes_away_cancels():
    async def run():
        stalling = VerifierDouble(
            "a", tokens=lambda request: IDS, before=lambda index, context: forever(index, context) if index else asyncio.sleep(0)
        )
        async with gateway(stalling) as (app, service):
            sent: asyncio.Queue = asyncio.Queue()
            task = asyncio.create_task(asgi_post(app, "/v1/completions", COMPLETION | {"stream": True}, sent))
            assert (await sent.get())["status"] == 200
            assert (await asyncio.wait_for(sent.get(), 2.0))["body"].startswith(b"data: {")
            assert service.running == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(stalling.cancelled.wait(), 2.0)
            assert service.running == 0
            assert service.totals()["cancelled"] == 1

    asyncio.run(run())


def test_a_client_that_goes_away_before_the_first_token_cancels_all_choices():
    async def run():
        stalling = VerifierDouble("a", before=forever)
        async with gateway(stalling) as (app, service):
            task = asyncio.create_task(asgi_post(app, "/v1/completions", COMPLETION | {"n": 3}, asyncio.Queue()))
            while len(stalling.seen) < 3:
                await asyncio.sleep(0.005)
            assert service.running == 3
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(stalling.cancelled.wait(), 2.0)
            assert (service.running, service.totals()["cancelled"]) == (0, 3)

    asyncio.run(run())
