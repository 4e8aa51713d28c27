"""Traces over HTTP and gRPC, in front of a verifier's double; who may see them, and what becomes of them when a verifier fails."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from deployments.api.grpc.inference import InferenceApi
from deployments.gateway.text_stream import StopRule, TextDelta, generate_text
from drafthouse.config.security import ApiKeysConfig
from drafthouse.security.api_keys import ApiKeys, generate_key, hash_of
from drafthouse.wire.dialect import OURS
from protos import inference_pb2 as pb
from tests.unit.byte_tokenizer import codec
from tests.unit.grpc_gateway import Context
from tests.unit.linked import REQUEST, linked
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, JSON, TEXT, error_of, events, gateway, request
from tests.unit.scoring_double import Scoring, logprob_of
from tests.unit.test_grpc_api import data, serve
from tests.unit.tracing_double import Tracing, trace_of
from tests.unit.verifier_double import VerifierDouble, cut_at

STREAM = {"stream": True, "stream_options": {"include_trace": True}}
PATHS = (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT))
ASK = {"speculation": {"trace": True}}


def tracing(name: str = "a", **options: Any) -> Tracing:
    return Tracing(name, tokens=lambda r: IDS[: r.max_tokens], says=OURS.metadata(), step=3, **options)


class Scored(Scoring, Tracing):
    """Logprobs and traces together."""


def tokens_of(steps: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    """In order and without a gap."""
    done = list[int]()
    for step in steps:
        assert step["first_token_index"] == len(done)
        done += [token["token"] for token in step["tokens"]]
        assert [step["nodes"][node]["token"] for node in step["accepted"]] == done[step["first_token_index"] :][: len(step["accepted"])]
    return tuple(done)


def text_of(steps: Sequence[dict[str, Any]]) -> str:
    return "".join(token["text"] for step in steps for token in step["tokens"])


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_a_stream_tells_of_its_steps_and_of_nothing_where_it_is_not_asked(path: str, body: dict[str, Any]) -> None:
    plain = events(request(path, body | {"stream": True}, verifier=tracing()))
    chunks = [choice for event in events(request(path, body | STREAM, verifier=tracing())) for choice in event["choices"]]
    assert not any("trace" in choice for event in plain for choice in event["choices"])
    said = [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in chunks]
    assert "".join(said) == TEXT
    steps = [step for choice in chunks for step in choice.get("trace", [])]
    assert tokens_of(steps) == IDS
    assert text_of(steps) == TEXT
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert all(step["time"] > 1.7e9 for step in steps)
    told = ""
    for choice, text in zip(chunks, said, strict=True):
        told += text_of(choice.get("trace", []))
        assert told.startswith(text), "a text comes before what tells where it is from"
        told = told[len(text) :]


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_a_whole_answer_has_them_beside_its_text(path: str, body: dict[str, Any]) -> None:
    [choice] = request(path, body | ASK, verifier=tracing()).json()["choices"]
    assert tokens_of(choice["trace"]) == IDS
    assert choice["trace"][0]["tokens"][0]["source"] == "lookup"
    assert choice["trace"][0]["tokens"][2]["source"] == "target"
    assert "trace" not in request(path, body, verifier=tracing()).json()["choices"][0]
    [choice] = request(path, body | ASK, verifier=VerifierDouble("old", tokens=lambda r: IDS)).json()["choices"]
    assert choice["trace"] == []
    assert (choice.get("text") or choice["message"]["content"]) == TEXT


def test_nothing_is_told_to_those_who_do_not_ask_whatever_a_verifier_sends() -> None:
    class Talking(Tracing):
        def reply(self, r, index, output):
            return super().reply(replace(r, trace=True), index, output)

    async def run() -> list[TextDelta]:
        async with linked(Talking("a", tokens=lambda r: IDS, step=3)) as link:
            r = replace(REQUEST, max_tokens=len(IDS))
            return [delta async for delta in generate_text(link, codec().token_bytes, r, StopRule())]

    deltas = asyncio.run(run())
    assert tuple(token for delta in deltas for token in delta.tokens) == IDS
    assert not any(delta.trace for delta in deltas)


def test_each_choice_has_its_own() -> None:
    answer = request("/v1/completions", COMPLETION | ASK | {"n": 2, "prompt": ["hello", "hallo"]}, verifier=tracing()).json()
    assert [tokens_of(choice["trace"]) for choice in answer["choices"]] == [IDS] * 4


@pytest.mark.parametrize("stop", ["return", "'é", " b)"])
@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_stop_string_ends_the_trace_where_it_ends_the_text(stop: str, step: int) -> None:
    verifier = tracing()
    verifier.step = step
    answer = request("/v1/completions", COMPLETION | ASK | {"stop": stop}, verifier=verifier).json()
    [choice] = answer["choices"]
    assert choice["text"] == TEXT[: TEXT.index(stop)]
    assert len(tokens_of(choice["trace"])) == answer["usage"]["completion_tokens"] < len(IDS)
    assert text_of(choice["trace"]).startswith(choice["text"] + stop)
    assert sum(len(s["accepted"]) for s in choice["trace"]) == answer["usage"]["speculation"]["accepted"]


def test_logprobs_come_beside_them() -> None:
    verifier = Scored("a", tokens=lambda r: IDS, says=OURS.metadata(), step=3)
    chunks = events(request("/v1/completions", COMPLETION | STREAM | {"logprobs": 1}, verifier=verifier))
    for choice in (choice for event in chunks for choice in event["choices"]):
        told = [token["token"] for step in choice.get("trace", []) for token in step["tokens"]]
        assert choice["logprobs"]["token_logprobs"] == [logprob_of(token, 1).logprob for token in told]


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"stream_options": {"include_trace": True}}, "stream_options", "only allowed with stream: true"),
        ({"stream": True, "stream_options": {"include_trace": "yes"}}, "stream_options.include_trace", "valid boolean"),
        ({"stream": True, "stream_options": {"include_traces": True}}, "stream_options.include_traces", "did you mean include_trace"),
        ({"speculation": {"trace": 1}}, "speculation.trace", "valid boolean"),
        ({"trace": True}, "trace", "no such field"),
    ],
)
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_each_bad_field_is_named(path: str, body: dict[str, Any], changes: dict[str, Any], param: str, words: str) -> None:
    response = request(path, body | changes)
    assert error_of(response)[0::2] == (400, param)
    assert words in response.json()["error"]["message"]


@asynccontextmanager
async def clients(*keys: str | None, **options: Any):
    """A client for each key of one gateway."""
    hashes = tuple(hash_of(key) for key in keys if key is not None)
    known = ApiKeys(ApiKeysConfig(hashes=hashes)) if hashes else None
    async with gateway(tracing(), keys=known, **options) as (app, _):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = [JSON if key is None else JSON | {"Authorization": f"Bearer {key}"} for key in keys]
        yield [httpx.AsyncClient(transport=transport, base_url="http://test", headers=each) for each in headers]


def test_the_trace_of_a_request_can_be_asked_for_by_its_client_alone() -> None:
    async def run() -> None:
        async with clients(generate_key(), generate_key()) as (mine, other):
            answer = (await mine.post("/v1/completions", content=json.dumps(COMPLETION | ASK | {"n": 2}))).json()
            path = f"/v1/requests/{answer['id']}/trace"
            told = (await mine.get(path)).json()
            assert (told["id"], told["object"], told["steps_left_out"]) == (answer["id"], "trace", 0)
            assert [choice["steps"] for choice in told["choices"]] == [choice["trace"] for choice in answer["choices"]]
            assert [choice["finish_reason"] for choice in told["choices"]] == ["length"] * 2
            assert (await mine.head(path)).status_code == 200
            refused = await other.get(path)
            assert error_of(refused) == (404, "invalid_request_error", "request_id", "trace_not_found")
            assert "speculation.trace" in refused.json()["error"]["message"]
            untraced = (await mine.post("/v1/completions", content=json.dumps(COMPLETION))).json()["id"]
            for unknown in (untraced, "x", "%2e%2e", "cmpl-"):
                assert (await mine.get(f"/v1/requests/{unknown}/trace")).status_code == 404

    asyncio.run(run())


def test_a_stream_can_be_asked_for_while_it_runs_and_a_response_by_its_own_id() -> None:
    async def run() -> None:
        async with clients(None) as [client]:
            async with client.stream("POST", "/v1/chat/completions", content=json.dumps(CHAT | STREAM)) as stream:
                first = json.loads((await anext(stream.aiter_lines())).removeprefix("data: "))
            told = (await client.get(f"/v1/requests/{first['id']}/trace")).json()
            assert tokens_of(told["choices"][0]["steps"]) == IDS
            body = {"model": "demo", "input": "hello", "max_output_tokens": len(IDS)} | ASK
            response = (await client.post("/v1/responses", content=json.dumps(body))).json()
            told = (await client.get(f"/v1/requests/{response['id']}/trace")).json()
            assert told["id"] == response["id"]
            assert tokens_of(told["choices"][0]["steps"]) == IDS

    asyncio.run(run())


def test_grpc_has_the_same_steps() -> None:
    asked = data(speculation=pb.Speculation(trace=True))

    async def call(service: Any) -> tuple[pb.GenerateResponse, list[pb.GenerateChunk], pb.GenerateResponse]:
        api = InferenceApi(service)
        chunks = [chunk async for chunk in api.stream(asked, Context())]
        return await api.generate(asked, Context()), chunks, await api.generate(data(), Context())

    whole, chunks, plain = serve(call, tracing())
    assert not plain.trace
    steps = [step for chunk in chunks for step in chunk.trace]
    for chunk in chunks:
        assert [token.token for step in chunk.trace for token in step.tokens] == list(chunk.tokens)
    [choice] = request("/v1/completions", COMPLETION | ASK, verifier=tracing()).json()["choices"]
    for found in (list(whole.trace), steps):
        assert [step.step for step in found] == [step["step"] for step in choice["trace"]]
        for got, wanted in zip(found, choice["trace"], strict=True):
            assert [(t.token, t.text, t.source) for t in got.tokens] == [tuple(token.values()) for token in wanted["tokens"]]
            assert [node.parent for node in got.nodes] == [node["parent"] for node in wanted["nodes"]]
            chosen = [node.chosen if node.HasField("chosen") else None for node in got.nodes]
            assert chosen == [node["chosen"] for node in wanted["nodes"]]
            assert (list(got.accepted), got.price, got.nodes_left_out) == (wanted["accepted"], wanted["price"], wanted["nodes_left_out"])
            assert (got.timings.wait_s, got.timings.device_s, got.timings.step_s) == tuple(wanted["timings"].values())


class Overlapping(Tracing):
    """Of what was delivered it says the last token again, in a step of its own counting."""

    def reply(self, r, index, output):
        if not r.delivered or index != len(r.delivered):
            return super().reply(r, index, output)
        plain = super().reply(r, index, output)
        tokens = output[index - 1 : index + self.step]
        return type(plain)(r.request_id, r.attempt, index - 1, tokens, plain.finish_reason, "", plain.usage, trace=trace_of(tokens))


@pytest.mark.parametrize("second", [Tracing, Overlapping, VerifierDouble])
def test_steps_of_two_verifiers_are_joined_and_missing_ones_are_not_made_up(second: type[VerifierDouble]) -> None:
    """The first one dies behind two steps. Of the second one, that of an older version tells nothing."""

    async def run() -> list[Any]:
        first = tracing("a", before=cut_at(6))
        other = second("b", tokens=lambda r: IDS[: r.max_tokens], says=OURS.metadata(), step=3, load=5)
        async with linked(first, other) as link:
            r = replace(REQUEST, trace=True, max_tokens=len(IDS))
            return [delta async for delta in generate_text(link, codec().token_bytes, r, StopRule())]

    deltas = asyncio.run(run())
    assert tuple(token for delta in deltas for token in delta.tokens) == IDS
    steps = [step for delta in deltas for step in delta.trace]
    for step in steps:
        assert IDS[step.first_token_index :][: len(step.tokens)] == step.tokens
    told = [step.first_token_index for step in steps]
    wanted = {Tracing: list(range(0, len(IDS), 3)), Overlapping: [0, 3, *range(9, len(IDS), 3)], VerifierDouble: [0, 3]}
    assert told == wanted[second]
    assert [step.attempt for step in steps] == [1, 1] + [2] * (len(steps) - 2)
