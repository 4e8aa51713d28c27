"""The gRPC API behind the gRPC server that Serve starts in a gateway: requests come as bytes, and a status by the call's context."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import grpc
from ray.serve._private.grpc_util import start_grpc_server
from ray.serve.config import gRPCOptions
from ray.serve.grpc_util import RayServegRPCContext

from deployments.api.grpc.inference import InferenceApi
from deployments.cli.local_cluster import SERVICER
from deployments.cli.ray_environment import free_port

GENERATE, STREAM = "/drafthouse.v1.Inference/Generate", "/drafthouse.v1.Inference/GenerateStream"
TOKENIZE, DETOKENIZE = "/drafthouse.v1.Inference/Tokenize", "/drafthouse.v1.Inference/Detokenize"
MODELS, CHECK = "/drafthouse.v1.Inference/ListModels", "/grpc.health.v1.Health/Check"


class Context:
    """A call's context without a call. `set` is what is set on it, as Serve passes it on at the end."""

    def __init__(self, metadata: Iterable[tuple[str, str | bytes]] = (), peer: str = "ipv4:10.0.0.1:1234") -> None:
        self.set: dict[str, object] = {}
        self._metadata, self._peer = list(metadata), peer

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._metadata

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", "r1")]

    def __getattr__(self, name):
        return lambda value: self.set.update({name: value})


def handlers_of(api: InferenceApi, writers: list[asyncio.Task]):
    """As `_direct_ingress_service_handler_factory` of Serve's replicas, in the same task, without queues. `writers`: tasks of streams."""

    calls = {GENERATE: api.generate, TOKENIZE: api.tokenize, DETOKENIZE: api.detokenize, CHECK: api.check}
    calls[MODELS] = lambda data, context: api.list_models(context)

    def factory(service_method: str, streaming_type: object):
        async def unary(data: bytes, context) -> bytes:
            serve_context = RayServegRPCContext(context)
            response = await calls[service_method](data, serve_context)
            serve_context._set_on_grpc_context(context)
            return response.SerializeToString()

        async def stream(data: bytes, context) -> AsyncIterator[bytes]:
            writers.append(asyncio.current_task())
            serve_context = RayServegRPCContext(context)
            async for chunk in api.stream(data, serve_context):
                yield chunk.SerializeToString()
            serve_context._set_on_grpc_context(context)

        return stream if service_method == STREAM else unary

    return factory


@asynccontextmanager
async def grpc_gateway(
    api: InferenceApi, *options: tuple[str, int], writers: list[asyncio.Task] | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with these `options` to the API. `writers` gets the task of each stream."""
    port = free_port()
    serve_options = gRPCOptions(port=port, grpc_servicer_functions=[SERVICER])
    task, server = await start_grpc_server(
        handlers_of(api, [] if writers is None else writers), serve_options, event_loop=asyncio.get_running_loop()
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=list(options)) as channel:
            yield channel
    finally:
        await server.stop(0)
        await task
