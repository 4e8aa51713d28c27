"""Streams to verifiers, one for each address.

Promises: an address is dialled once, however many requests ask for it at the same time; one that comes back is found at the next
request; what a machine that is gone leaves behind is ended by silence; streams to addresses no longer in use are closed. After a
change of certificates new requests go over a new stream; those on the old one may end there.
"""

import asyncio
from collections.abc import Callable, Set

import grpc

from deployments.gateway.verifier_stream import VerifierStream
from drafthouse.wire.settings import CHANNEL_OPTIONS
from drafthouse.wire.transport import Transport

CONNECT_S = 2.0
"""An address that swallows packets is given up after this long; one that refuses, at once."""

LAST_CALLS_S = 3600.0
"""Requests on a stream whose certificate has been replaced are given this long."""

FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)

OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class VerifierStreams:
    """Connects to an address on first use, and again when a stream there has ended."""

    def __init__(self, transport: Transport, heard: Callable[[VerifierStream], None]) -> None:
        """`heard`: as of `VerifierStream`."""
        self._transport, self._heard = transport, heard
        self._identity = transport.identity()
        self._open: dict[str, asyncio.Task[VerifierStream]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def connected(self, address: str) -> VerifierStream:
        """A stream that takes calls. Raises ConnectionError when there is no answer at the address."""
        self._replace_old()
        dialled = self._open.get(address)
        if dialled is None or (dialled.done() and not _alive(dialled)):
            if dialled is not None:
                self._close(address, 0.0)
            dialled = self._open[address] = asyncio.create_task(self._dial(address))
        try:
            return await asyncio.shield(dialled)
        except asyncio.CancelledError:
            if dialled.cancelled():
                raise ConnectionError("its stream was replaced") from None
            raise

    async def _dial(self, address: str) -> VerifierStream:
        channel = self._transport.channel(address, OPTIONS)
        stream = VerifierStream(channel, self._heard)
        try:
            await _connect(channel)
            await stream.open()
        except BaseException:
            await stream.close()
            raise
        return stream

    @property
    def stalled(self) -> int:
        """Streams of verifiers whose device hangs."""
        return sum(_alive(dialled) and dialled.result().stalled for dialled in self._open.values())

    def keep(self, addresses: Set[str]) -> None:
        """Closes the streams to all other addresses that carry no call."""
        for address in self._open.keys() - addresses:
            if not self._calls(address):
                self._close(address, 0.0)

    def _calls(self, address: str) -> int:
        dialled = self._open[address]
        return len(dialled.result().calls) if _alive(dialled) else 0

    def _replace_old(self) -> None:
        identity = self._transport.identity()
        if identity is not self._identity:
            self._identity = identity
            for address in list(self._open):
                self._close(address, LAST_CALLS_S)

    def _close(self, address: str, grace_s: float) -> None:
        task = asyncio.create_task(_ended(self._open.pop(address), grace_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Ends all calls."""
        for address in list(self._open):
            self._close(address, 0.0)
        closing = list(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)


async def _connect(channel: grpc.aio.Channel) -> None:
    """Raises ConnectionError, whose words clients may see: neither addresses nor what a peer says."""
    try:
        async with asyncio.timeout(CONNECT_S):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state in FAILED:
                    raise ConnectionError("it cannot be reached")
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise ConnectionError("it does not answer") from None


def _alive(dialled: asyncio.Task[VerifierStream]) -> bool:
    return dialled.done() and not dialled.cancelled() and dialled.exception() is None and dialled.result().alive


async def _ended(dialled: asyncio.Task[VerifierStream], grace_s: float) -> None:
    """Closes the stream once its calls have ended, after `grace_s` at the latest, or when it is cancelled."""
    try:
        if not dialled.done():
            dialled.cancel()
        if _alive(dialled):
            await dialled.result().idle(grace_s)
    finally:
        if dialled.done() and not dialled.cancelled() and dialled.exception() is None:
            await dialled.result().close()
