"""The gRPC API: the same checks and text as over HTTP, and one status for each error."""

import asyncio

import grpc
import pytest
from ray.serve.exceptions import gRPCStatusError

from deployments.api.grpc import inference as grpc_api
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import DEFAULT_MAX_TOKENS, RequestPlanner
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.errors import RequestError
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import RefusalKind
from protos import inference_pb2 as pb
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.verifier_double import VerifierDouble, cut_at, refusing, serving

PLANNER = RequestPlanner("demo", codec(), metadata())
TEXT = "def add(a, b):\n    return 'é🙂'\n"
IDS = tuple(codec().encode(TEXT))


def request(**fields) -> pb.GenerateRequest:
    fields = {"model": "demo", "max_tokens": len(IDS)} | fields
    return pb.GenerateRequest(**({} if "prompt_tokens" in fields else {"prompt": "hello"}) | fields)


def serve(call, *verifiers: VerifierDouble):
    async def run():
        async with serving(*verifiers or [VerifierDouble("a", tokens=lambda request: IDS)]) as routes:
            link = VerifierLink(patience_s=0.05)
            link.update(routes)
            try:
                return await call(InferenceService(PLANNER, link, 16))
            finally:
                await link.close()

    return asyncio.run(run())


def test_every_field_reaches_the_plan():
    message = request(
        temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, repetition_penalty=1.5, seed=7, stop=["x"],
        speculation=pb.Speculation(mode="fixed", nodes=8, depth=4), prompt_tokens=pb.TokenIds(ids=[5, 6]),
    )  # fmt: skip
    plan = grpc_api.make_plan(PLANNER, message)
    (made,) = plan.requests
    assert (made.prompt, made.sampling, made.seed) == ((5, 6), SamplingParams(0.5, 3, 0.9, 0.1, 1.5), 7)
    assert (made.speculation, plan.stops, made.max_tokens) == (Speculation("fixed", 8, 4), ("x",), len(IDS))


def test_absent_fields_have_the_defaults_and_zero_is_not_absent():
    bare = pb.GenerateRequest(model="demo", prompt="hello")
    (made,) = grpc_api.make_plan(PLANNER, bare).requests
    assert (made.sampling, made.speculation, made.max_tokens) == (SamplingParams(), Speculation(), DEFAULT_MAX_TOKENS)
    bare.temperature, bare.seed = 0.0, 0
    plan = grpc_api.make_plan(PLANNER, bare)
    assert (plan.requests[0].sampling.temperature, plan.seed) == (0.0, 0)


def test_what_is_left_open_is_sampled_as_the_model_advises():
    advised = SamplingParams(temperature=0.6, top_k=20)
    planner = RequestPlanner("demo", codec(), metadata(sampling_defaults=advised))
    bare = pb.GenerateRequest(model="demo", prompt="hello", top_k=0)
    assert grpc_api.make_plan(planner, bare).requests[0].sampling == SamplingParams(temperature=0.6)


@pytest.mark.parametrize(("fields", "stop_tokens"), [({}, (0,)), ({"ignore_eos": False}, (0,)), ({"ignore_eos": True}, ())])
def test_the_models_own_end_of_text_can_be_ignored(fields, stop_tokens):
    assert grpc_api.make_plan(PLANNER, request(**fields)).requests[0].stop_tokens == stop_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"prompt": ""}, "prompt"),
        ({"prompt_tokens": pb.TokenIds(ids=[1 << 30])}, "prompt_tokens"),
        ({"speculation": pb.Speculation(mode="never")}, "speculation.mode"),
    ],
)
def test_faults_name_the_field(fields, param):
    with pytest.raises(RequestError) as caught:
        grpc_api.make_plan(PLANNER, request(**fields))
    assert caught.value.param == param


def test_a_prompt_is_needed():
    with pytest.raises(RequestError, match="prompt"):
        grpc_api.make_plan(PLANNER, pb.GenerateRequest(model="demo"))


def test_generate():
    response = serve(lambda service: grpc_api.generate(service, request(seed=7), "", Context()))
    assert (response.text, tuple(response.tokens), response.finish_reason, response.seed) == (TEXT, IDS, "length", 7)
    usage = response.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.drafted, usage.steps) == (len(codec().encode("hello")), len(IDS), 9, 3)
    assert usage.cached_tokens == 1


def test_stream():
    async def call(service):
        return [chunk async for chunk in grpc_api.stream(service, request(), "", Context(), zero_chunks=True)]

    chunks = serve(call)
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert tuple(token for chunk in chunks for token in chunk.tokens) == IDS
    assert [chunk.finish_reason for chunk in chunks] == [""] * (len(chunks) - 1) + ["length"]
    assert [chunk.HasField("usage") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_chunks_say_which_attempt_made_which_tokens():
    async def call(service):
        return [chunk async for chunk in grpc_api.stream(service, request(), "", Context(), zero_chunks=True)]

    breaking, whole = (VerifierDouble(name, tokens=lambda request: IDS, load=load) for name, load in (("a", 0), ("b", 1)))
    breaking.before = cut_at(4)
    chunks = serve(call, breaking, whole)
    assert [(chunk.first_token_index, chunk.attempt) for chunk in chunks] == [(i, 1 if i < 4 else 2) for i in range(0, len(IDS), 2)]
    assert chunks[-1].usage.attempts == 2


@pytest.mark.parametrize(
    ("fields", "failure", "code"),
    [
        ({"top_p": 2.0}, None, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "other"}, None, grpc.StatusCode.NOT_FOUND),
        ({}, cut_at(0), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_errors_become_codes(fields, failure, code):
    verifier = VerifierDouble("a", before=failure)
    with pytest.raises(gRPCStatusError) as caught:
        serve(lambda service: grpc_api.generate(service, request(**fields), "", Context()), verifier)
    assert caught.value.grpc_code is code
    assert caught.value.grpc_details


class Context:
    """What is set on the call's context, as Serve passes it on at its end."""

    def __init__(self):
        self.set: dict[str, object] = {}

    def __getattr__(self, name):
        return lambda value: self.set.update({name: value})


@pytest.mark.parametrize("zero_chunks", [True, False])
def test_a_refusal_says_when_to_come_again(zero_chunks):
    """In the metadata, where Serve passes it on, and in the details."""
    context = Context()

    async def call(service):
        return [chunk async for chunk in grpc_api.stream(service, request(), "", context, zero_chunks)]

    full = VerifierDouble("a", before=refusing(RefusalKind.FULL, retry_after_s=7.2))
    if zero_chunks:
        assert serve(call, full) == []
        assert context.set["set_code"] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert context.set["set_trailing_metadata"] == [("grpc-retry-pushback-ms", "7200")]
        details = context.set["set_details"]
    else:
        with pytest.raises(gRPCStatusError) as caught:
            serve(call, full)
        assert caught.value.grpc_code is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = caught.value.grpc_details
    assert details.endswith("try again in 7.20 s")


def test_a_refused_call_with_one_reply_has_the_hint_too():
    context = Context()
    full = VerifierDouble("a", before=refusing(RefusalKind.FULL, retry_after_s=0.3))
    assert serve(lambda service: grpc_api.generate(service, request(), "", context), full) == pb.GenerateResponse()
    assert context.set["set_trailing_metadata"] == [("grpc-retry-pushback-ms", "300")]


def test_an_unforeseen_error_is_internal_and_says_nothing_of_itself():
    status = grpc_api.as_status(ValueError("secret/path"))
    assert status.grpc_code is grpc.StatusCode.INTERNAL
    assert status.grpc_details == "internal error"
