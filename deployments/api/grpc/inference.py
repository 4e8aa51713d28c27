"""The public gRPC API (protos/inference.proto) in terms of plans and deltas, and `grpc.health.v1`.

Promises: the same checks, limits and text as over HTTP; each call ends with one status (`status`). It is set on the call's context, since
Serve writes two stack traces for a call that raises, and drops its metadata. Where a client's deadline passes, gRPC cancels the call, and
its request ends in the verifier. A client that takes nothing of its stream for `write_timeout_s` loses its request, and is told so when it
reads again; what buffers on the way take counts as taken.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from ray.serve.exceptions import gRPCStatusError
from ray.serve.grpc_util import RayServegRPCContext

from deployments.api.grpc.replies import Replies
from deployments.api.grpc.requests import detokenize_body, make_plan, read, tokenize_body
from deployments.api.grpc.status import NotReadError, status_of
from deployments.api.openai.client_limit import address
from deployments.api.openai.responses import Output
from deployments.api.openai.status import model_card
from deployments.api.openai.text_routes import text_of, tokens_of
from deployments.api.trace_form import NodeBudget
from deployments.gateway.arrival import Arrival
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KeyRefusals
from deployments.gateway.request_planner import RequestPlanner
from drafthouse.errors import RequestError
from drafthouse.security.api_keys import ApiKeys
from protos import inference_pb2 as pb

logger = logging.getLogger(__name__)

SERVICES = frozenset({"", pb.DESCRIPTOR.services_by_name["Inference"].full_name})
"""Whose health may be asked for; empty: the whole server's."""

Metadata = Iterable[tuple[str, str | bytes]]
Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class InferenceApi:
    """Without `keys` all are let in. `proxy_hops`: trusted proxies in front, whose word on a client's address counts. Requests come as
    bytes; a reply is empty where the context has got a status instead."""

    service: InferenceService
    keys: ApiKeys | None = None
    refusals: KeyRefusals = field(default_factory=KeyRefusals)
    proxy_hops: int = 0
    write_timeout_s: float = math.inf
    zero_chunks: bool = True
    """Whether Serve heeds the context of a stream without a chunk; where it does not, a stream raises its status."""

    async def generate(self, data: bytes, context: RayServegRPCContext) -> pb.GenerateResponse:
        return await _one(self._whole(data, context), context, pb.GenerateResponse)

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
                raise gRPCStatusError(error, status.code, status.message) from error
            status.put(context)
        finally:
            await written.aclose()

    async def tokenize(self, data: bytes, context: RayServegRPCContext) -> pb.TokenizeResponse:
        return await _one(self._text(_tokenized, data, context), context, pb.TokenizeResponse)

    async def detokenize(self, data: bytes, context: RayServegRPCContext) -> pb.DetokenizeResponse:
        return await _one(self._text(_detokenized, data, context), context, pb.DetokenizeResponse)

    async def list_models(self, context: RayServegRPCContext) -> pb.ListModelsResponse:
        return await _one(self._models(context), context, pb.ListModelsResponse)

    async def check(self, data: bytes, context: RayServegRPCContext) -> health_pb2.HealthCheckResponse:
        """SERVING where /health/ready answers 200. Asks for no key."""
        return await _one(self._health(data), context, health_pb2.HealthCheckResponse)

    async def _whole(self, data: bytes, context: RayServegRPCContext) -> pb.GenerateResponse:
        async with self._arrival(context) as arrival:
            plan, deltas = await arrival.begin(partial(make_plan, self.service.planner, data), len(data))
            replies, output = Replies(plan), Output(NodeBudget())
            async with aclosing(deltas):
                async for _, delta in deltas:
                    output.add(delta)
                    replies.count(delta)
            return replies.whole(output)

    async def _chunks(self, data: bytes, context: RayServegRPCContext) -> AsyncGenerator[pb.GenerateChunk, None]:
        async with self._arrival(context) as arrival:
            plan, deltas = await arrival.begin(partial(make_plan, self.service.planner, data), len(data))
            replies = Replies(plan)
            async with aclosing(deltas):
                async for _, delta in deltas:
                    yield replies.chunk(delta)

    async def _text(self, make: Callable[[RequestPlanner, bytes], Reply], data: bytes, context: RayServegRPCContext) -> Reply:
        async with self._arrival(context) as arrival:
            return await self.service.made(partial(make, self.service.planner, data), len(data), arrival.cache_key)

    async def _models(self, context: RayServegRPCContext) -> pb.ListModelsResponse:
        self._authenticate(self._place(context), context.invocation_metadata())
        card = model_card(self.service.planner)
        defaults = pb.SamplingDefaults(**card.sampling_defaults.model_dump())
        return pb.ListModelsResponse(data=[pb.ModelCard(id=card.id, max_model_len=card.max_model_len, sampling_defaults=defaults)])

    async def _health(self, data: bytes) -> health_pb2.HealthCheckResponse:
        name = read(health_pb2.HealthCheckRequest, data).service
        if name not in SERVICES:
            raise RequestError(f"there is no service {name[:200]!r} here", "service", "not_found", 404)
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if len(self.service.link.routes) else status.NOT_SERVING)

    def _arrival(self, context: RayServegRPCContext) -> Arrival:
        place, metadata = self._place(context), context.invocation_metadata()
        return Arrival(self.service, self._authenticate(place, metadata), place, partial(_said_in, metadata))

    def _place(self, context: RayServegRPCContext) -> str:
        return address_of(context.peer(), context.invocation_metadata(), self.proxy_hops)

    def _authenticate(self, place: str, metadata: Metadata) -> str:
        """The API key's hash, empty without keys. Raises RequestError unless the metadata have `authorization: Bearer KEY`."""
        if self.keys is None:
            return ""
        try:
            return self.keys.check(_said_in(metadata, "authorization"))
        except RequestError as error:
            self.refusals.refused(place, error)
            raise


def _said_in(metadata: Metadata, wanted: str) -> str | None:
    return next((str(value) for name, value in metadata if name == wanted), None)


def _tokenized(planner: RequestPlanner, data: bytes) -> pb.TokenizeResponse:
    return pb.TokenizeResponse(**tokens_of(planner, tokenize_body(planner, data)).model_dump())


def _detokenized(planner: RequestPlanner, data: bytes) -> pb.DetokenizeResponse:
    return pb.DetokenizeResponse(prompt=text_of(planner, detokenize_body(planner, data)).prompt)


async def _one(reply: Awaitable[Reply], context: RayServegRPCContext, empty: Callable[[], Reply]) -> Reply:
    try:
        return await reply
    except Exception as error:  # fault boundary: each call ends with exactly one status
        status_of(error).put(context)
        return empty()


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


def address_of(peer: str, metadata: Metadata, proxy_hops: int) -> str:
    """The client's address; gRPC writes a peer as `ipv4:ADDRESS:PORT`."""
    connection = peer.partition(":")[2].rpartition(":")[0]
    forwarded = ",".join(str(value) for name, value in metadata if name == "x-forwarded-for")
    return address(connection, forwarded, proxy_hops)
