"""Bytes that are no protocol at all, to every port: connections that end at once, half-way, or after a valid beginning."""

import asyncio
import contextlib
import random

from tests.fuzz.findings import Outcome
from tests.fuzz.messages import with_faults

CONNECT_S = 10.0
READ_S = 0.2
HTTP1 = b'POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{"model":"demo"}'
SETTINGS = bytes.fromhex("000006040000000000000300000064")
HEADERS = bytes.fromhex("00000401050000000182848641")
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS + HEADERS
TLS = b"\x16\x03\x01\x00\x2e\x01\x00\x00\x2a\x03\x03" + bytes(range(32)) + b"\x00\x00\x02\x13\x01\x01\x00"


class TcpPort:
    def __init__(self, address: str, seed: int) -> None:
        host, _, port = address.rpartition(":")
        self.name, self._host, self._port, self._seed = f"tcp {address}", host, int(port), seed

    async def send(self, number: int) -> tuple[Outcome, str]:
        rng = random.Random(f"{self._seed}/tcp/{number}")
        data = rng.randbytes(rng.randint(0, 200)) if rng.random() < 0.2 else with_faults(rng.choice((HTTP1, HTTP2, TLS)), rng)
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
        except (TimeoutError, OSError) as error:
            return Outcome("no connection", f"{type(error).__name__}: {error}"), data.hex()
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(data)
            await writer.drain()
            await asyncio.wait_for(reader.read(1), READ_S if rng.random() < 0.3 else 0.01)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Outcome("sent"), data.hex()
