"""The public gRPC API (protos/inference.proto) in terms of plans and deltas.

Promises: the same checks, limits and text as over HTTP; each call ends with one status, errors with INVALID_ARGUMENT, NOT_FOUND,
UNAUTHENTICATED, UNAVAILABLE, INTERNAL, or RESOURCE_EXHAUSTED with `grpc-retry-pushback-ms`. It is set on the call's context, since Serve
writes two stack traces for a call that raises, and drops its metadata. A client that takes nothing of its stream for
`write_timeout_s` loses its request, and is told so when it reads again; what buffers on the way take counts as taken.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError
from ray.serve.exceptions import gRPCStatusError
from ray.serve.grpc_util import RayServegRPCContext

from deployments.api.openai.client_limit import address
from deployments.api.openai.sampling_schema import checked_words
from deployments.api.openai.schema import check_model, checked_stops
from deployments.gateway.arrival import Arrival
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.request_planner import DEFAULT_MAX_TOKENS, RequestPlan, RequestPlanner, Settings
from deployments.gateway.text_stream import TextDelta
from deployments.gateway.verifier_link import GenerationError, NoVerifierError
from drafthouse.errors import DrafthouseError, OverloadError, RequestError
from drafthouse.sampling import SamplingParams
from drafthouse.security.api_keys import ApiKeys
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import RAW, LogprobsWish, TokenLogprob
from drafthouse.wire.settings import retry_metadata
from protos import inference_pb2 as pb

logger = logging.getLogger(__name__)

SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens",
)  # fmt: skip
MAX_DETAIL_BYTES = 2000
"""Of a status: gRPC clients take 8 KiB of metadata, in which a byte may take three."""

CODES = {401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED}

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class InferenceApi:
    """Without `keys` all are let in. `proxy_hops`: trusted proxies in front, whose word on a client's address counts."""

    service: InferenceService
    keys: ApiKeys | None = None
    refusals: KeyRefusals = field(default_factory=KeyRefusals)
    proxy_hops: int = 0
    write_timeout_s: float = math.inf
    zero_chunks: bool = True
    """Whether Serve heeds the context of a stream without a chunk; where it does not, a stream raises its status."""

    async def generate(self, data: bytes, context: RayServegRPCContext) -> pb.GenerateResponse:
        """`data`: a GenerateRequest, as it came. Empty where the context has got a status instead."""
        response = pb.GenerateResponse()
        pieces: list[str] = []
        try:
            async with aclosing(self._chunks(data, context)) as chunks:
                async for chunk in chunks:
                    pieces.append(chunk.text)
                    response.tokens.extend(chunk.tokens)
                    response.logprobs.extend(chunk.logprobs)
                    response.prompt_logprobs.extend(chunk.prompt_logprobs)
                    response.id, response.finish_reason, response.seed = chunk.id, chunk.finish_reason, chunk.seed
                    response.usage.CopyFrom(chunk.usage)
        except Exception as error:  # fault boundary: each call ends with exactly one status
            status_of(error).put(context)
            return pb.GenerateResponse()
        response.text = "".join(pieces)
        return response

    async def stream(self, data: bytes, context: RayServegRPCContext) -> AsyncGenerator[pb.GenerateChunk, None]:
        """Chunks, of which the last has the finish reason and the usage; none more once the context has got a status instead. Raises
        gRPCStatusError without `zero_chunks` alone."""
        written = _Written(self._chunks(data, context), self.write_timeout_s)
        try:
            async for chunk in written:
                yield chunk
        except Exception as error:  # fault boundary: each call ends with exactly one status
            status = status_of(error)
            if not self.zero_chunks:
                raise gRPCStatusError(error, status.code, status.details) from error
            status.put(context)
        finally:
            await written.aclose()

    async def _chunks(self, data: bytes, context: RayServegRPCContext) -> AsyncGenerator[pb.GenerateChunk, None]:
        metadata = context.invocation_metadata()
        place = address_of(context.peer(), metadata, self.proxy_hops)
        async with Arrival(self.service, self._authenticate(place, metadata), place) as arrival:
            plan, deltas = await arrival.begin(partial(make_plan, self.service.planner, data), len(data))
            completion_tokens, scored, echo = 0, 0, "".join(plan.echoes)
            async with aclosing(deltas):
                async for _, delta in deltas:
                    completion_tokens += len(delta.tokens)
                    yield _chunk(plan, replace(delta, text=echo + delta.text), completion_tokens, scored)
                    scored, echo = scored + len(delta.prompt_logprobs), ""

    def _authenticate(self, place: str, metadata: Metadata) -> str:
        """The API key's hash, empty without keys. Raises RequestError unless the metadata have `authorization: Bearer KEY`."""
        if self.keys is None:
            return ""
        try:
            return self.keys.check(next((str(value) for name, value in metadata if name == "authorization"), None))
        except RequestError as error:
            self.refusals.refused(place, error)
            raise


class NotReadError(DrafthouseError):
    """The client has taken nothing for too long."""


class _Written:
    """`chunks`, each of which its reader writes to a client before it asks for the next one. Raises NotReadError for one that took longer
    than `timeout_s`; after as long again the writer's task is cancelled, so that Serve's slot is free, too. A chunk costs no timer."""

    def __init__(self, chunks: AsyncGenerator[pb.GenerateChunk, None], timeout_s: float) -> None:
        self._chunks, self._timeout_s = chunks, timeout_s
        self._since: float | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stalled, self._closed = False, asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.GenerateChunk:
        self._since = None
        if self._stalled:
            raise NotReadError(f"nothing of this stream was taken for {self._timeout_s:g} s")
        chunk = await anext(self._chunks)
        self._since = time.monotonic()
        if self._watcher is None and self._timeout_s < math.inf:
            self._watcher = asyncio.create_task(self._watch(asyncio.current_task()), name="grpc-write-timeout")
        return chunk

    async def aclose(self) -> None:
        """Ends `chunks`."""
        if self._stalled:
            await self._closed.wait()
        if self._watcher is not None:
            self._watcher.cancel()
        await self._chunks.aclose()

    async def _watch(self, writer: "asyncio.Task[Any] | None") -> None:
        while self._since is None or time.monotonic() - self._since < self._timeout_s:
            await asyncio.sleep(self._timeout_s / 4)
        self._stalled = True
        logger.warning("a client took nothing of its gRPC stream for %g s; its request ends", self._timeout_s)
        try:
            await self._chunks.aclose()
        finally:
            self._closed.set()
        await asyncio.sleep(self._timeout_s)
        if writer is not None:
            writer.cancel()


def make_plan(planner: RequestPlanner, data: bytes) -> RequestPlan:
    """Of a GenerateRequest, as it came. Raises RequestError naming the field at fault."""
    try:
        request = pb.GenerateRequest.FromString(data)
    except DecodeError as error:
        raise RequestError("the request cannot be read: it is no protobuf message drafthouse.v1.GenerateRequest") from error
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
        bad_words=checked_words(request.bad_words),
        stop_token_ids=tuple(request.stop_token_ids),
        include_stop=request.include_stop_str_in_output,
        logprobs=_wish(request),
        prompt_top=request.prompt_logprobs if request.HasField("prompt_logprobs") else None,
        echo=request.echo,
    )
    return planner.plan("gen", [prompt], settings, field=kind)


def address_of(peer: str, metadata: Metadata, proxy_hops: int) -> str:
    """The client's address; gRPC writes a peer as `ipv4:ADDRESS:PORT`."""
    connection = peer.partition(":")[2].rpartition(":")[0]
    forwarded = ",".join(str(value) for name, value in metadata if name == "x-forwarded-for")
    return address(connection, forwarded, proxy_hops)


@dataclass(frozen=True, slots=True)
class Status:
    code: grpc.StatusCode
    details: str
    retry_after_s: float | None = None

    def put(self, context: RayServegRPCContext) -> None:
        context.set_code(self.code)
        context.set_details(self.details.encode()[:MAX_DETAIL_BYTES].decode(errors="ignore"))
        if self.retry_after_s is not None:
            context.set_trailing_metadata([*context.trailing_metadata(), *retry_metadata(self.retry_after_s)])


def status_of(error: Exception) -> Status:
    """What is unforeseen says nothing of its inside to the client, and is logged."""
    match error:
        case RequestError():
            return Status(CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), str(error))
        case OverloadError():
            details = f"{error}; try again in {error.retry_after_s:.2f} s"
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, details, error.retry_after_s)
        case NoVerifierError():
            return Status(grpc.StatusCode.UNAVAILABLE, str(error))
        case GenerationError():
            return Status(grpc.StatusCode.INTERNAL, str(error))
        case NotReadError():
            return Status(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
    logger.error("unforeseen error", exc_info=error)
    return Status(grpc.StatusCode.INTERNAL, "internal error")


def _chunk(plan: RequestPlan, delta: TextDelta, completion_tokens: int, scored: int) -> pb.GenerateChunk:
    """`scored`: prompt tokens whose logprobs were told before, after the first one."""
    prompt = plan.requests[0].prompt[1 + scored :]
    chunk = pb.GenerateChunk(
        id=plan.id, text=delta.text, tokens=delta.tokens, first_token_index=delta.first_token_index, attempt=delta.attempt,
        finish_reason=delta.finish_reason, seed=plan.seed, logprobs=_logprobs(delta.tokens, delta.logprobs),
        prompt_logprobs=_logprobs(prompt, delta.prompt_logprobs),
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


def _logprobs(tokens: Sequence[int], found: Sequence[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(token=token, logprob=each.logprob, rank=each.rank, top_tokens=each.top_ids, top_logprobs=each.top_logprobs)
        for token, each in zip(tokens, found, strict=False)
    ]


def _wish(request: pb.GenerateRequest) -> LogprobsWish:
    top, prompt_top = (getattr(request, name) if request.HasField(name) else None for name in ("logprobs", "prompt_logprobs"))
    wish = LogprobsWish(top, prompt_top, request.logprobs_mode or RAW)
    wish.check()
    return wish


def _sampling(request: pb.GenerateRequest, defaults: SamplingParams) -> SamplingParams:
    given = {name: getattr(request, name) for name in SAMPLING if request.HasField(name)}
    given["logit_bias"] = tuple(sorted(request.logit_bias.items()))
    given["allowed_token_ids"] = tuple(sorted(set(request.allowed_token_ids)))
    sampling = replace(defaults, **given)
    sampling.check()
    return sampling


def _speculation(message: pb.Speculation) -> Speculation:
    speculation = Speculation(**{name: getattr(message, name) for name in ("mode", "nodes", "depth", "width") if message.HasField(name)})
    speculation.check()
    return speculation
