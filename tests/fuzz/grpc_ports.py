"""Mutated protobuf for the gRPC ports: the gateway's own API, and the data planes of verifiers and drafters.

Promises: the same seed and number make the same messages, so that one input can be sent again alone.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.fuzz.findings import Outcome
from tests.fuzz.http_exchange import LIMIT_S
from tests.fuzz.messages import almost, spliced

STREAMED = 4
"""Messages on one stream of the data plane; they meet each other's requests and sessions."""

FAULTY, FAULTY_STREAMED = 0.3, 0.08
"""Share of messages with bytes that have faults: on a stream the first that cannot be read is the last."""

SHORT = b"\x20\x02"
"""max_tokens = 2 in a GenerateRequest; of a field that comes twice the last one counts. Other requests have no such field, or a flag."""

SHORT_SHARE = 0.9
PAUSES_S = (0.0, 0.0, 0.02, 0.2)
"""From the last message to the end of the stream: some of what was asked for runs, some has not begun."""

FAULTS = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "DATA_LOSS", "ABORTED"}
"""Of a gateway's answers: what takes the place of a 5xx."""


def message_of(seeds: Sequence[Message], rng: random.Random, faulty: float) -> bytes:
    return spliced(seeds, rng) if rng.random() < faulty / 4 else almost(rng.choice(seeds), rng, faulty)


class GatewayPort:
    name = "grpc"

    def __init__(
        self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]], seeds: Mapping[str, Sequence[Message]], seed: int
    ) -> None:
        """`seeds`: of each method, by its path."""
        self._channel, self._metadata, self._seeds, self._seed = channel, metadata, seeds, seed

    async def send(self, number: int) -> tuple[Outcome, str]:
        rng = random.Random(f"{self._seed}/{self.name}/{number}")
        method = rng.choice(tuple(self._seeds))
        data = message_of(self._seeds[method], rng, FAULTY)
        if rng.random() < SHORT_SHARE:
            data += SHORT
        status = await self._status(method, data)
        fault = f"{status}" if status.split(":")[0] in FAULTS or status == "hangs" else ""
        return Outcome(status.split(":")[0], fault), f"{method} {data.hex()}"

    async def _status(self, method: str, data: bytes) -> str:
        try:
            async with asyncio.timeout(LIMIT_S):
                if method.endswith("Stream"):
                    async for _ in self._channel.unary_stream(method)(data, metadata=self._metadata):
                        pass
                else:
                    await self._channel.unary_unary(method)(data, metadata=self._metadata)
        except TimeoutError:
            return "hangs"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return "OK"


class DataPlanePort:
    """`service` is Verifier or Drafter. Every status is an answer here but that the role is gone; each stream must end."""

    def __init__(self, service: str, channel: grpc.aio.Channel, seeds: Sequence[Message], seed: int) -> None:
        self.name = f"data plane, {service.lower()}"
        self._connect = channel.stream_stream(f"/drafthouse.dataplane.v1.{service}/Connect")
        self._seeds, self._seed = seeds, seed

    async def send(self, number: int) -> tuple[Outcome, str]:
        rng = random.Random(f"{self._seed}/{self.name}/{number // STREAMED}")
        if number % STREAMED:  # one of a stream's later messages: its first has sent it
            return Outcome("with the message before"), ""
        messages = [message_of(self._seeds, rng, FAULTY_STREAMED) for _ in range(STREAMED)]
        call = self._connect()
        try:
            async with asyncio.timeout(LIMIT_S):
                status = await self._talk(call, messages, rng.choice(PAUSES_S))
        except TimeoutError:
            status = "hangs"
        finally:
            call.cancel()
        return Outcome(status, status if status in ("hangs", "UNAVAILABLE") else ""), " ".join(data.hex() for data in messages)

    async def _talk(self, call: Any, messages: Sequence[bytes], pause_s: float) -> str:
        try:
            for data in messages:
                await call.write(data)
            await asyncio.sleep(pause_s)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the server has ended the stream
            pass
        return str((await call.code()).name)
