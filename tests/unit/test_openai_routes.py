"""The HTTP API over a real verifier stream: OpenAI's shapes and events, and cancellation."""

import asyncio
import json

import httpx
import pytest

from deployments.api.openai.responses import UsageCount
from deployments.gateway.text_stream import TextDelta
from drafthouse.wire.generation_messages import SpeculationUsage
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, TEXT, error_of, events, gateway, request
from tests.unit.verifier_double import Drafting, VerifierDouble, forever

SPECULATION = {"drafted": 9, "verified": 8, "accepted": 5, "steps": 3, "attempts": 1}


def test_completion():
    response = request("/v1/completions", COMPLETION | {"seed": 7})
    body = response.json()
    assert response.headers["x-drafthouse-seed"] == "7"
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1.7e9
    assert body.pop("metrics")
    prompt_tokens = len(codec().encode("hello"))
    assert body == {
        "object": "text_completion",
        "model": "demo",
        "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(IDS),
            "total_tokens": prompt_tokens + len(IDS),
            "prompt_tokens_details": {"cached_tokens": 1},
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
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_prompt_is_as_cached_as_it_was_for_the_choice_that_had_least():
    """Two prompts, two choices each: the first choice of the first prompt computed it for the second one."""
    count = UsageCount(prompt_tokens=20, choices=2)
    for index, cached in enumerate((0, 9, 4, 7)):
        count.add(index, TextDelta("", (), 0, 1, "length", SpeculationUsage(cached_tokens=cached)))
    assert count.usage().prompt_tokens_details.cached_tokens == 0 + 4


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


def test_usage_of_several_choices_cut_at_a_stop_string():
    body = {"prompt": ["a", "b"], "n": 2, "stop": "(", "stream": True, "stream_options": {"include_usage": True}}
    whole = request("/v1/completions", COMPLETION | body | {"stream": False, "stream_options": None}).json()["usage"]
    streamed = events(request("/v1/completions", COMPLETION | body))[-1]["usage"]
    assert whole == streamed
    assert whole["prompt_tokens"] == 2
    kept = next(i for i in range(len(IDS)) if "(" in codec()._backend.decode(IDS[:i]))
    assert whole["completion_tokens"] == 4 * kept
    assert 0 < whole["speculation"]["accepted"] <= whole["completion_tokens"]


@pytest.mark.parametrize("step", [1, 3, 4, 100])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_acceptance_of_one_output_has_vllms_names(path, step):
    def answered(**more) -> httpx.Response:
        body = COMPLETION if path == "/v1/completions" else CHAT
        return request(path, body | more, verifier=Drafting("a", tokens=lambda request: IDS, step=step))

    said = answered().json()["metrics"]["speculative_decoding"]
    steps = -(-len(IDS) // step)
    last = len(IDS) - step * (steps - 1) - 1
    assert said["num_spec_steps"] == sum(said["acceptance_histogram"]) == steps
    assert said["num_accepted_draft_tokens"] == sum(j * count for j, count in enumerate(said["acceptance_histogram"])) == len(IDS) - steps
    assert said["acceptance_histogram"][last] == (steps if min(step, len(IDS)) - 1 == last else 1)
    assert said["num_draft_tokens"] == 8 * steps
    assert said["mean_acceptance_length"] == len(IDS) / steps
    assert said["draft_acceptance_rate"] == (len(IDS) - steps) / (8 * steps)
    assert said["num_spec_tokens"] is None
    *chunks, end = events(answered(stream=True, stream_options={"include_usage": True}))
    assert (end["choices"], end["metrics"]["speculative_decoding"]) == ([], said)
    assert not any("metrics" in chunk for chunk in chunks)
    assert "metrics" not in answered(n=2).json()


def test_without_drafts_there_is_no_acceptance():
    plain = VerifierDouble("a", lambda request: IDS, usage=SpeculationUsage())
    assert "metrics" not in request("/v1/completions", COMPLETION, verifier=plain).json()


def test_models_and_cluster():
    models = request("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["demo"]
    assert models["data"][0]["max_model_len"] == models["data"][0]["context_length"] == metadata().context_tokens
    none = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert models["data"][0]["sampling_defaults"] == none
    assert request("/v1/models/demo").json() == models["data"][0]
    assert error_of(request("/v1/models/other"))[0] == 404
    assert request("/v1/cluster").json() == {"model": "demo", "pools": {}}


def test_health():
    assert request("/health/ready").json() == {"status": "ok", "verifiers": 1}
    unready = request("/health/ready", routed=False)
    assert (unready.status_code, unready.json()["status"]) == (503, "unavailable")
    assert "no verifier" in unready.json()["reason"]
    assert request("/health/live", routed=False).json() == {"status": "ok"}
    assert request("/health").json() == {"status": "ok", "verifiers": 1}
    assert request("/health", routed=False).status_code == 503


async def asgi_post(app, path: str, body: object, sent: asyncio.Queue) -> None:
    """One request on the ASGI interface itself, whose events can be watched as they come."""
    received = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "scheme": "http", "root_path": "",
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
            assert service.totals().outcome["cancelled"] == 1

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
            assert (service.running, service.totals().outcome["cancelled"]) == (0, 3)

    asyncio.run(run())
