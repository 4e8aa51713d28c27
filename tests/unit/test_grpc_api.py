"""The gRPC API: the same checks and text as over HTTP, and one status for each error."""

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager

import grpc
import pytest
from ray.serve.exceptions import gRPCStatusError

from deployments.api.grpc.inference import InferenceApi
from deployments.api.grpc.requests import make_plan
from deployments.api.grpc.status import MAX_MESSAGE_BYTES, Status, status_of
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import DEFAULT_MAX_TOKENS, RequestPlanner
from deployments.gateway.text_stream import StopRule
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.errors import RequestError
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import LogprobsWish
from drafthouse.wire.generation_messages import RefusalKind
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.grpc_gateway import GENERATE, STREAM, Context, grpc_gateway
from tests.unit.openai_gateway import COMPLETION
from tests.unit.openai_gateway import request as http
from tests.unit.verifier_double import Drafting, VerifierDouble, cut_at, refusing, serving

PLANNER = RequestPlanner("demo", codec(), metadata())
TEXT = "def add(a, b):\n    return 'é🙂'\n"
IDS = tuple(codec().encode(TEXT))


def request(**fields) -> pb.GenerateRequest:
    fields = {"model": "demo", "max_tokens": len(IDS)} | fields
    return pb.GenerateRequest(**({} if "prompt_tokens" in fields else {"prompt": "hello"}) | fields)


def data(**fields) -> bytes:
    return request(**fields).SerializeToString()


def serve(call, *verifiers: VerifierDouble, planner: RequestPlanner = PLANNER):
    """What `call` returns of a gateway's service."""

    async def run():
        async with serving(*verifiers or [VerifierDouble("a", tokens=lambda request: IDS)]) as routes:
            link = VerifierLink(patience_s=0.05)
            link.update(routes)
            try:
                return await call(InferenceService(planner, link, 16))
            finally:
                await link.close()

    return asyncio.run(run())


def test_every_field_reaches_the_plan():
    message = request(
        temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, repetition_penalty=1.5, seed=7, stop=["x"],
        speculation=pb.Speculation(mode="fixed", nodes=8, depth=4), prompt_tokens=pb.TokenIds(ids=[5, 6]),
    )  # fmt: skip
    plan = make_plan(PLANNER, message.SerializeToString())
    (made,) = plan.requests
    assert (made.prompt, made.sampling, made.seed) == ((5, 6), SamplingParams(0.5, 3, 0.9, 0.1, 1.5), 7)
    assert (made.speculation, plan.stops, made.max_tokens) == (Speculation("fixed", 8, 4), ("x",), len(IDS))


def test_every_further_sampling_field_reaches_the_plan():
    message = request(
        presence_penalty=1.0, frequency_penalty=-0.5, logit_bias={7: 1.0, 3: -2.0}, min_tokens=2, stop_token_ids=[9], stop=["x"],
        include_stop_str_in_output=True, bad_words=["hello"], allowed_token_ids=[4, 3], logprobs=0, prompt_logprobs=2,
        logprobs_mode="processed_logprobs", echo=True,
    )  # fmt: skip
    plan = make_plan(PLANNER, message.SerializeToString())
    (made,) = plan.requests
    assert made.sampling == SamplingParams(
        presence_penalty=1.0, frequency_penalty=-0.5, logit_bias=((3, -2.0), (7, 1.0)), min_tokens=2, allowed_token_ids=(3, 4),
        bad_words=codec().encode_words(["hello"]),
    )  # fmt: skip
    assert (made.logprobs, made.stop_tokens) == (LogprobsWish(0, 2, "processed_logprobs"), (0, 9))
    assert (plan.stop_rule, plan.echoes) == (StopRule(("x",), True, 2), ("hello",))


def test_absent_fields_have_the_defaults_and_zero_is_not_absent():
    bare = pb.GenerateRequest(model="demo", prompt="hello")
    (made,) = make_plan(PLANNER, bare.SerializeToString()).requests
    assert (made.sampling, made.speculation, made.max_tokens) == (SamplingParams(), Speculation(), DEFAULT_MAX_TOKENS)
    bare.temperature, bare.seed = 0.0, 0
    plan = make_plan(PLANNER, bare.SerializeToString())
    assert (plan.requests[0].sampling.temperature, plan.seed) == (0.0, 0)


def test_what_is_left_open_is_sampled_as_the_model_advises():
    advised = SamplingParams(temperature=0.6, top_k=20)
    planner = RequestPlanner("demo", codec(), metadata(sampling_defaults=advised))
    bare = pb.GenerateRequest(model="demo", prompt="hello", top_k=0)
    assert make_plan(planner, bare.SerializeToString()).requests[0].sampling == SamplingParams(temperature=0.6)


@pytest.mark.parametrize(("fields", "stop_tokens"), [({}, (0,)), ({"ignore_eos": False}, (0,)), ({"ignore_eos": True}, ())])
def test_the_models_own_end_of_text_can_be_ignored(fields, stop_tokens):
    assert make_plan(PLANNER, data(**fields)).requests[0].stop_tokens == stop_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": -0.5}, "top_p"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"logit_bias": {5: 200.0}}, "logit_bias"),
        ({"logit_bias": {500: 1.0}}, "logit_bias"),
        ({"allowed_token_ids": [500]}, "allowed_token_ids"),
        ({"stop_token_ids": [500]}, "stop_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"min_tokens": 1000}, "min_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"logprobs_mode": "raw"}, "logprobs_mode"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"prompt": ""}, "prompt"),
        ({"prompt_tokens": pb.TokenIds(ids=[1 << 30])}, "prompt_tokens"),
        ({"speculation": pb.Speculation(mode="never")}, "speculation.mode"),
    ],
)
def test_faults_name_the_field(fields, param):
    with pytest.raises(RequestError) as caught:
        make_plan(PLANNER, data(**fields))
    assert caught.value.param == param


def test_a_prompt_is_needed():
    with pytest.raises(RequestError, match="prompt"):
        make_plan(PLANNER, pb.GenerateRequest(model="demo").SerializeToString())


def test_generate():
    response = serve(lambda service: InferenceApi(service).generate(data(seed=7), Context()))
    assert (response.text, tuple(response.tokens), response.finish_reason, response.seed) == (TEXT, IDS, "length", 7)
    usage = response.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.drafted, usage.steps) == (len(codec().encode("hello")), len(IDS), 9, 3)
    assert usage.cached_tokens == 1


def test_acceptance_is_that_of_http():
    said = http("/v1/completions", COMPLETION, verifier=Drafting("a", tokens=lambda request: IDS, step=3)).json()["metrics"]
    response = serve(lambda service: InferenceApi(service).generate(data(), Context()), Drafting("a", tokens=lambda request: IDS, step=3))
    assert list(response.usage.acceptance_histogram) == said["speculative_decoding"]["acceptance_histogram"]


def test_stream():
    async def call(service):
        return [chunk async for chunk in InferenceApi(service).stream(data(), Context())]

    chunks = serve(call)
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert tuple(token for chunk in chunks for token in chunk.tokens) == IDS
    assert [chunk.finish_reason for chunk in chunks] == [""] * (len(chunks) - 1) + ["length"]
    assert [chunk.HasField("usage") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_chunks_say_which_attempt_made_which_tokens():
    async def call(service):
        return [chunk async for chunk in InferenceApi(service).stream(data(), Context())]

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
    verifier, context = VerifierDouble("a", before=failure), Context()
    assert serve(lambda service: InferenceApi(service).generate(data(**fields), context), verifier) == pb.GenerateResponse()
    assert context.set["set_code"] is code
    assert context.set["set_details"]


@pytest.mark.parametrize("zero_chunks", [True, False])
def test_a_refusal_says_when_to_come_again(zero_chunks):
    """In the metadata, where Serve passes it on, and in the details."""
    context = Context()

    async def call(service):
        return [chunk async for chunk in InferenceApi(service, zero_chunks=zero_chunks).stream(data(), context)]

    full = VerifierDouble("a", before=refusing(RefusalKind.FULL, retry_after_s=7.2))
    if zero_chunks:
        assert serve(call, full) == []
        assert context.set["set_code"] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert context.set["set_trailing_metadata"][:2] == [("request_id", "r1"), ("grpc-retry-pushback-ms", "7200")]
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
    assert serve(lambda service: InferenceApi(service).generate(data(), context), full) == pb.GenerateResponse()
    assert ("grpc-retry-pushback-ms", "300") in context.set["set_trailing_metadata"]


def test_an_unforeseen_error_is_internal_and_says_nothing_of_itself(caplog):
    status = status_of(ValueError("secret/path"))
    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "secret/path" in caplog.text


def test_a_status_fits_into_the_metadata_that_clients_take():
    context = Context()
    Status(grpc.StatusCode.INTERNAL, "é🙂" * 100_000, "INTERNAL_ERROR").put(context)
    assert len(context.set["set_details"].encode()) in range(MAX_MESSAGE_BYTES - 4, MAX_MESSAGE_BYTES + 1)


@pytest.fixture
def no_traces(caplog):
    """Nothing that is logged, by us or by gRPC, has a stack trace."""
    caplog.set_level(logging.INFO)
    yield caplog
    assert [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()] == []


@pytest.mark.parametrize("path", [GENERATE, STREAM])
@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "no protobuf message drafthouse.v1.GenerateRequest"),
        (b"\n\x02\xff\xfe", grpc.StatusCode.INVALID_ARGUMENT, "no protobuf message drafthouse.v1.GenerateRequest"),  # no UTF-8
        (data(top_p=2.0), grpc.StatusCode.INVALID_ARGUMENT, "top_p"),
        (data(model="other"), grpc.StatusCode.NOT_FOUND, "other"),
        (data(prompt="x" * 2000), grpc.StatusCode.RESOURCE_EXHAUSTED, "bytes"),
    ],
    ids=["malformed", "no UTF-8", "wrong", "other model", "too long"],
)
def test_what_is_refused_ends_with_one_status_and_one_line_of_the_log(path, sent, code, words, no_traces):
    async def call(service):
        service.max_bytes = 1000
        async with grpc_gateway(InferenceApi(service)) as channel:
            kind = channel.unary_unary if path == GENERATE else channel.unary_stream
            called = kind(path, request_serializer=None, response_deserializer=None)(sent)
            return await called.code(), await called.details()

    found, details = serve(call)
    assert found is code
    assert words in details
    assert [record.fields["event"] for record in no_traces.records if hasattr(record, "fields")] == ["request"]


@asynccontextmanager
async def unread(service: InferenceService, write_timeout_s: float, writers: list[asyncio.Task] | None = None):
    """A stream of which the first chunk has been read; the others fill a connection whose windows are as small as they may be."""
    smallest = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
    async with grpc_gateway(InferenceApi(service, write_timeout_s=write_timeout_s), *smallest, writers=writers) as channel:
        stream = rpc.InferenceStub(channel).GenerateStream(request(max_tokens=10**6, ignore_eos=True))
        await stream.read()
        async with asyncio.timeout(60):
            yield stream


def serve_much(call):
    """With more text than the buffers of a connection take."""
    much = VerifierDouble("a", tokens=lambda request: IDS * 30_000, step=1000)
    return serve(call, much, planner=RequestPlanner("demo", codec(), metadata(10**7)))


def test_a_client_that_does_not_read_its_stream_loses_its_place_and_is_told_when_it_reads(no_traces):
    async def call(service):
        async with unread(service, write_timeout_s=1.0) as stream:
            while service.running:
                await asyncio.sleep(0.01)
            assert service.totals().outcome["cancelled"] == 1
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await stream.read() is not grpc.aio.EOF:
                    pass
            return await stream.code(), await stream.details()

    assert serve_much(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "nothing of this stream was taken for 1 s")
    assert "took nothing of its gRPC stream for 1 s" in no_traces.text


def test_a_client_that_never_reads_leaves_serves_slot(no_traces):
    writers: list[asyncio.Task] = []

    async def call(service):
        async with unread(service, 0.05, writers):
            [writer] = writers
            while not writer.done():
                await asyncio.sleep(0.01)
            assert not service.running

    serve_much(call)


def test_a_client_that_waits_for_its_verifier_longer_than_that_keeps_its_place():
    """Only what lies there unread counts."""

    async def before(index, served):
        await asyncio.sleep(0.05 if index else 0.0)

    async def call(service):
        async with grpc_gateway(InferenceApi(service, write_timeout_s=0.01)) as channel:
            stream = rpc.InferenceStub(channel).GenerateStream(request())
            return "".join([chunk.text async for chunk in stream])

    assert serve(call, VerifierDouble("a", tokens=lambda request: IDS, step=8, before=before)) == TEXT
