"""The further methods of the gRPC API, what errors are to programs, and deadlines: over a connection."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deployments.api.grpc import status
from deployments.api.grpc.inference import InferenceApi
from deployments.gateway.client_limits import ClientLimits
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.verifier_link import GenerationError, NoVerifierError, VerifierLink
from drafthouse.config.limits import RateLimits
from drafthouse.config.security import ApiKeysConfig
from drafthouse.errors import LimitError, OverloadError, RequestError
from drafthouse.security.api_keys import ApiKeys, generate_key, hash_of
from drafthouse.wire.generation_messages import RefusalKind
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.unit.byte_tokenizer import CHAT_TEMPLATE, codec, metadata
from tests.unit.grpc_gateway import CHECK, DETOKENIZE, GENERATE, MODELS, TOKENIZE, grpc_gateway
from tests.unit.openai_gateway import request as http
from tests.unit.verifier_double import VerifierDouble, forever, refusing, serving

HELLO = pb.GenerateRequest(model="demo", prompt="hello", max_tokens=4)
KEY = generate_key()
HELD = ApiKeys(ApiKeysConfig(hashes=(hash_of(KEY),)))
Talk = Callable[[grpc.aio.Channel, InferenceService], Awaitable[Any]]


@asynccontextmanager
async def service_of(verifier: VerifierDouble, routed: bool = True):
    async with serving(verifier) as routes:
        link = VerifierLink(patience_s=0.05)
        link.update(routes if routed else ())
        try:
            yield InferenceService(RequestPlanner("demo", codec(CHAT_TEMPLATE), metadata()), link, 16)
        finally:
            await link.close()


def talk(what: Talk, verifier: VerifierDouble | None = None, keys: ApiKeys | None = None, routed: bool = True) -> Any:
    """What `what` returns of a channel to a gateway."""

    async def run() -> Any:
        async with (
            service_of(verifier or VerifierDouble("a"), routed) as service,
            grpc_gateway(InferenceApi(service, keys)) as channel,
            asyncio.timeout(60),
        ):
            return await what(channel, service)

    return asyncio.run(run())


def inference(method: str, message: Any, **options: Any) -> Any:
    async def call(channel: grpc.aio.Channel, service: InferenceService) -> Any:
        return await getattr(rpc.InferenceStub(channel), method)(message)

    return talk(call, **options)


def refused(method: str, message: Any, **options: Any) -> tuple[grpc.aio.AioRpcError, Status]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        inference(method, message, **options)
    return caught.value, rich(caught.value)


def rich(error: grpc.aio.AioRpcError) -> Status:
    """As grpcio-status reads it: code and message must be those of the call."""
    found = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert (found.code, found.message) == (error.code().value[0], error.details())
    return found


def detail(found: Status, kind: Any) -> Any:
    """None where it has none of the kind."""
    for packed in found.details:
        if packed.Is(kind.DESCRIPTOR):
            made = kind()
            packed.Unpack(made)
            return made
    return None


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (pb.TokenizeRequest(model="demo", prompt="def add"), {"model": "demo", "prompt": "def add"}),
        (pb.TokenizeRequest(prompt=""), {"prompt": ""}),
        (
            pb.TokenizeRequest(prompt="hello", add_special_tokens=False, return_token_strs=True),
            {"prompt": "hello", "add_special_tokens": False, "return_token_strs": True},
        ),
        (
            pb.TokenizeRequest(messages=[pb.ChatMessage(role="user", content="hello")]),
            {"messages": [{"role": "user", "content": "hello"}]},
        ),
    ],
)
def test_tokens_are_those_of_http(message, body):
    found, wanted = inference("Tokenize", message), http("/tokenize", body).json()
    assert list(found.tokens) == wanted["tokens"]
    assert (found.count, found.max_model_len, list(found.token_strs)) == (
        wanted["count"],
        wanted["max_model_len"],
        wanted["token_strs"] or [],
    )


def test_tokens_have_their_text_again():
    ids = codec().encode("def add(a, b):")
    assert inference("Detokenize", pb.DetokenizeRequest(model="demo", tokens=ids)).prompt == "def add(a, b):"
    assert inference("Detokenize", pb.DetokenizeRequest()).prompt == ""


@pytest.mark.parametrize(
    ("method", "message", "field"),
    [
        ("Tokenize", pb.TokenizeRequest(), "prompt"),
        ("Tokenize", pb.TokenizeRequest(prompt="a", messages=[pb.ChatMessage(role="user")]), "prompt"),
        ("Tokenize", pb.TokenizeRequest(messages=[pb.ChatMessage(role="king")]), "messages.0.role"),
        ("Detokenize", pb.DetokenizeRequest(tokens=[1 << 30]), "tokens"),
        ("Generate", pb.GenerateRequest(model="demo", prompt="a", top_p=2.0), "top_p"),
    ],
)
def test_the_field_at_fault_is_named_for_programs(method, message, field):
    error, found = refused(method, message)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(found, BadRequest).field_violations
    assert (violation.field, violation.description, violation.reason) == (field, error.details(), "INVALID_VALUE")
    assert detail(found, ErrorInfo) == ErrorInfo(reason="INVALID_VALUE", domain="drafthouse")


def test_another_model_is_not_found_by_any_method():
    for method, message in (("Tokenize", pb.TokenizeRequest(prompt="a")), ("Detokenize", pb.DetokenizeRequest()), ("Generate", HELLO)):
        named = type(message)()
        named.CopyFrom(message)
        named.model = "other"
        error, found = refused(method, named)
        assert (error.code(), detail(found, ErrorInfo).reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


def test_the_model_is_told_with_what_it_advises():
    (card,) = inference("ListModels", pb.ListModelsRequest()).data
    wanted = http("/v1/models").json()["data"][0]
    assert (card.id, card.max_model_len) == (wanted["id"], wanted["max_model_len"])
    assert {name: getattr(card.sampling_defaults, name) for name in wanted["sampling_defaults"]} == wanted["sampling_defaults"]


def test_a_refusal_says_to_programs_when_to_come_again():
    full = VerifierDouble("a", before=refusing(RefusalKind.FULL, retry_after_s=7.25))
    error, found = refused("Generate", HELLO, verifier=full)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(found, RetryInfo).retry_delay == Duration(seconds=7, nanos=250_000_000)
    assert detail(found, ErrorInfo).reason == "OVERLOADED"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RequestError("no", "prompt", code="context_length_exceeded"), grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED"),
        (RequestError("no", status=401, code="invalid_api_key"), grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY"),
        (RequestError("no", status=403, code="not_an_operator"), grpc.StatusCode.PERMISSION_DENIED, "NOT_AN_OPERATOR"),
        (RequestError("no", status=404, code="model_not_found"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (RequestError("no", status=413, code="request_too_large"), grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
        (OverloadError("no", 1.0), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (LimitError("no", "tokens", 1.0), grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED"),
        (NoVerifierError("no"), grpc.StatusCode.UNAVAILABLE, "NO_VERIFIER"),
        (GenerationError("no"), grpc.StatusCode.INTERNAL, "GENERATION_FAILED"),
        (status.NotReadError("no"), grpc.StatusCode.DEADLINE_EXCEEDED, "NOT_READ"),
        (ValueError("secret"), grpc.StatusCode.INTERNAL, "INTERNAL_ERROR"),
    ],
)
def test_each_class_of_error_has_its_code_and_reason(error, code, reason):
    made = status.status_of(error)
    assert (made.code, made.reason) == (code, reason)
    resource = error.resource if isinstance(error, LimitError) else ""
    assert dict(detail(made.rich(), ErrorInfo).metadata) == ({"resource": resource} if resource else {})


def test_an_error_with_all_its_details_fits_into_the_metadata_that_clients_take():
    """As it comes over a connection: a client that gets more of it than 8 KiB gets RESOURCE_EXHAUSTED instead."""
    error, found = refused("Generate", pb.GenerateRequest(model="🙂" * 4000, prompt="a"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    longest = status.Status(grpc.StatusCode.INVALID_ARGUMENT, "é🙂" * 5000, "A" * 40, "é" * 5000, "", 5.0).rich()
    assert 3 * len(longest.message.encode()) + 4 * longest.ByteSize() // 3 < 8192 - 1024


def test_health_is_that_of_the_gateway_and_needs_no_key():
    async def ask(channel: grpc.aio.Channel, service: InferenceService) -> list[int]:
        check = health_pb2_grpc.HealthStub(channel).Check
        names = ("", "drafthouse.v1.Inference")
        return [(await check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

    serving_now, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert talk(ask, keys=HELD) == [serving_now] * 2
    assert talk(ask, routed=False) == [not_serving] * 2


def test_health_of_a_service_that_there_is_none_of_is_not_found():
    async def ask(channel: grpc.aio.Channel, service: InferenceService) -> None:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        talk(ask)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_cannot_be_watched():
    async def ask(channel: grpc.aio.Channel, service: InferenceService) -> None:
        async for _ in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        talk(ask)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", [GENERATE, TOKENIZE, DETOKENIZE, MODELS])
def test_no_method_is_open_without_a_key(path):
    async def ask(channel: grpc.aio.Channel, service: InferenceService, metadata: Any = None) -> None:
        await channel.unary_unary(path, request_serializer=None, response_deserializer=None)(b"", metadata=metadata)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        talk(ask, keys=HELD)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert detail(rich(caught.value), ErrorInfo).reason == "MISSING_API_KEY"


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE, CHECK])
def test_bytes_that_are_no_message_are_an_invalid_argument(path):
    async def ask(channel: grpc.aio.Channel, service: InferenceService) -> None:
        await channel.unary_unary(path, request_serializer=None, response_deserializer=None)(b"\xff\xff\xff")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        talk(ask)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no protobuf message" in caught.value.details()


@pytest.mark.parametrize("streams", [False, True])
def test_a_deadline_that_passes_ends_the_request_in_the_verifier(streams):
    verifier = VerifierDouble("a", before=forever)

    async def ask(channel: grpc.aio.Channel, service: InferenceService) -> dict[str, int]:
        stub = rpc.InferenceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (anext(aiter(stub.GenerateStream(HELLO, timeout=0.3))) if streams else stub.Generate(HELLO, timeout=0.3))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await verifier.cancelled.wait()
        while service.running:
            await asyncio.sleep(0.01)
        return service.totals().outcome

    assert talk(ask, verifier)["cancelled"] == 1


def test_tokenizing_counts_as_a_request_of_its_client():
    async def ask(channel: grpc.aio.Channel, service: InferenceService) -> grpc.aio.AioRpcError:
        service.limits = ClientLimits(lambda client: RateLimits(requests_per_minute=1))
        tokenize = rpc.InferenceStub(channel).Tokenize
        await tokenize(pb.TokenizeRequest(prompt="a"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tokenize(pb.TokenizeRequest(prompt="a"))
        return caught.value

    error = talk(ask)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(rich(error), ErrorInfo).metadata["resource"] == "requests"
