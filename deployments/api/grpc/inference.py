"""The public gRPC API (protos/inference.proto) in terms of plans and deltas.

Promises: the same checks and the same text as over HTTP; errors become INVALID_ARGUMENT, NOT_FOUND,
UNAUTHENTICATED, UNAVAILABLE or INTERNAL, through Ray Serve's `gRPCStatusError`, and RESOURCE_EXHAUSTED
with `grpc-retry-pushback-ms`, through the call's context: Serve drops the metadata of a call that raises.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import grpc
from ray.serve.exceptions import gRPCStatusError
from ray.serve.grpc_util import RayServegRPCContext

from deployments.api.openai.client_limit import address
from deployments.api.openai.schema import check_model, checked_stops
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import DEFAULT_MAX_TOKENS, RequestPlan, RequestPlanner, Settings
from deployments.gateway.text_stream import TextDelta
from deployments.gateway.verifier_link import NoVerifierError
from drafthouse.errors import OverloadError, RequestError
from drafthouse.sampling import SamplingParams
from drafthouse.security.api_keys import ApiKeys
from drafthouse.speculation import Speculation
from drafthouse.wire.settings import retry_metadata
from protos import inference_pb2 as pb

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
CODES = {401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED}


def make_plan(planner: RequestPlanner, request: pb.GenerateRequest) -> RequestPlan:
    """Raises RequestError naming the field at fault."""
    check_model(request.model, planner.model)
    kind = request.WhichOneof("input")
    if kind is None:
        raise RequestError("prompt or prompt_tokens must be set", "prompt")
    prompt = request.prompt if kind == "prompt" else tuple(request.prompt_tokens.ids)
    max_tokens = request.max_tokens if request.HasField("max_tokens") else DEFAULT_MAX_TOKENS
    if max_tokens < 1:
        raise RequestError("max_tokens must be at least 1", "max_tokens")
    settings = Settings(
        model=request.model,
        sampling=_sampling(request, planner.metadata.sampling_defaults),
        speculation=_speculation(request.speculation),
        max_tokens=max_tokens,
        seed=request.seed if request.HasField("seed") else None,
        stops=checked_stops(request.stop),
        ignore_eos=request.ignore_eos,
    )
    return planner.plan("gen", [prompt], settings, field=kind)


def authenticate(keys: ApiKeys | None, metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The cache key of the caller: the API key's hash. Raises gRPCStatusError unless the call's metadata has
    `authorization: Bearer KEY`; without `keys` all are let in, with an empty cache key."""
    if keys is None:
        return ""
    try:
        return keys.check(next((str(value) for name, value in metadata if name == "authorization"), None))
    except RequestError as error:
        raise as_status(error) from error


def address_of(peer: str, metadata: Iterable[tuple[str, str | bytes]], proxy_hops: int) -> str:
    """The client's address; gRPC writes a peer as `ipv4:ADDRESS:PORT`."""
    connection = peer.partition(":")[2].rpartition(":")[0]
    forwarded = ",".join(str(value) for name, value in metadata if name == "x-forwarded-for")
    return address(connection, forwarded, proxy_hops)


async def generate(
    service: InferenceService, request: pb.GenerateRequest, cache_key: str, context: RayServegRPCContext, address: str = ""
) -> pb.GenerateResponse:
    """Empty where the context has got a status instead. Raises gRPCStatusError."""
    response = pb.GenerateResponse()
    pieces: list[str] = []
    async with aclosing(stream(service, request, cache_key, context, True, address)) as chunks:
        async for chunk in chunks:
            pieces.append(chunk.text)
            response.tokens.extend(chunk.tokens)
            response.id, response.finish_reason, response.seed = chunk.id, chunk.finish_reason, chunk.seed
            response.usage.CopyFrom(chunk.usage)
    response.text = "".join(pieces)
    return response


async def stream(
    service: InferenceService,
    request: pb.GenerateRequest,
    cache_key: str,
    context: RayServegRPCContext,
    zero_chunks: bool,
    address: str = "",
) -> AsyncGenerator[pb.GenerateChunk, None]:
    """Chunks, of which the last has the finish reason and the usage; none where the context has got a status instead.
    Raises gRPCStatusError. `zero_chunks`: whether Serve heeds the context of a call without one.
    `address`: the client's, whose limits count where there is no key."""
    counted = service.limits.begin(cache_key or address)
    try:
        await service.enter(counted, cache_key)
        plan = await service.plan(partial(make_plan, service.planner, request), request.ByteSize(), cache_key)
        await service.charge(counted, plan)
        completion_tokens = 0
        async with aclosing(service.stream(plan, counted)) as deltas:
            async for _, delta in deltas:
                completion_tokens += len(delta.tokens)
                yield _chunk(plan, delta, completion_tokens)
    except Exception as error:  # fault boundary: each call ends with exactly one status
        if not (isinstance(error, OverloadError) and zero_chunks):
            raise as_status(error) from error
        context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
        context.set_details(_details(error))
        context.set_trailing_metadata(list(retry_metadata(error.retry_after_s)))
    finally:
        counted.end()


def as_status(error: Exception) -> gRPCStatusError:
    if isinstance(error, RequestError):
        code = CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
    elif isinstance(error, OverloadError):
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    elif isinstance(error, NoVerifierError):
        code = grpc.StatusCode.UNAVAILABLE
    else:
        return gRPCStatusError(error, grpc.StatusCode.INTERNAL, "internal error")  # what it is stands in the log
    return gRPCStatusError(error, code, _details(error))


def _details(error: Exception) -> str:
    return f"{error}; try again in {error.retry_after_s:.2f} s" if isinstance(error, OverloadError) else str(error)


def _chunk(plan: RequestPlan, delta: TextDelta, completion_tokens: int) -> pb.GenerateChunk:
    chunk = pb.GenerateChunk(
        id=plan.id, text=delta.text, tokens=delta.tokens, first_token_index=delta.first_token_index, attempt=delta.attempt,
        finish_reason=delta.finish_reason, seed=plan.seed,
    )  # fmt: skip
    if delta.finish_reason:
        spent = delta.usage
        chunk.usage.CopyFrom(
            pb.Usage(
                prompt_tokens=plan.prompt_tokens, completion_tokens=completion_tokens,
                drafted=spent.drafted, verified=spent.verified, accepted=spent.accepted, steps=spent.steps, synthetic=spent.synthetic,
                attempts=delta.attempt, cached_tokens=spent.cached_tokens,
            )
        )  # fmt: skip
    return chunk


def _sampling(request: pb.GenerateRequest, defaults: SamplingParams) -> SamplingParams:
    sampling = replace(defaults, **{name: getattr(request, name) for name in SAMPLING if request.HasField(name)})
    sampling.check()
    return sampling


def _speculation(message: pb.Speculation) -> Speculation:
    speculation = Speculation(**{name: getattr(message, name) for name in ("mode", "nodes", "depth", "width") if message.HasField(name)})
    speculation.check()
    return speculation
