"""The key from the environment goes with every gRPC call of our own clients."""

import asyncio
import io
from dataclasses import replace

import grpc
import httpx
import pytest

from benchmarks.cancel.clients import Clients
from benchmarks.cancel.traffic import traffic
from drafthouse.security.client_key import API_KEY, authorization
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.chaos.event_log import EventLog
from tests.chaos.streams import Streams
from tests.chaos.work import make_works


class Server(rpc.InferenceServicer):
    def __init__(self) -> None:
        self.keys: list[str | None] = []

    def _note(self, context) -> None:
        self.keys.append(dict(context.invocation_metadata()).get("authorization"))

    async def Generate(self, request, context):
        self._note(context)
        return pb.GenerateResponse(finish_reason="stop")

    async def GenerateStream(self, request, context):
        self._note(context)
        yield pb.GenerateChunk(finish_reason="stop")


async def _calls() -> list[str | None]:
    """The key of one call of each kind, as the server got it."""
    servicer, server = Server(), grpc.aio.server()
    rpc.add_InferenceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    [call] = traffic(1, 0.0, 1, (4, 4), seed=0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, httpx.AsyncClient() as http:
        await Streams(channel, "demo", EventLog(io.StringIO())).one("r", make_works([[1, 2]], 1, 8, seed=0)[0], None)
        for way in ("grpc", "grpc stream"):
            await Clients(http, channel, "demo", [authorization()]).send(replace(call, way=way), "x", None)
    await server.stop(None)
    return servicer.keys


@pytest.mark.parametrize(("key", "sent"), [("k" * 24, "Bearer " + "k" * 24), ("", None)])
def test_the_key_is_sent_over_grpc_if_there_is_one(monkeypatch: pytest.MonkeyPatch, key: str, sent: str | None) -> None:
    monkeypatch.setenv(API_KEY, key)
    assert asyncio.run(_calls()) == [sent] * 3
