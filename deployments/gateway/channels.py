"""gRPC channels to peers, one for each address.

Promises: messages as long as the longest context pass; a peer that comes back at its old address is
found within a second; what a machine that is gone leaves behind is closed by keepalive; channels of addresses no
longer in use are closed. After a change of certificates, new calls go over new channels; open streams may end on the old ones.
"""

import asyncio
from collections.abc import Set

import grpc

from drafthouse.wire.settings import CHANNEL_OPTIONS
from drafthouse.wire.transport import Transport

CONNECT_S = 2.0
"""An address that swallows packets is given up after this long; one that refuses, at once."""

LAST_STREAMS_S = 3600.0
"""Streams on a channel whose certificate has been replaced are given this long."""

FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)

OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class Channels:
    """Connects to an address on first use."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._identity = transport.identity()
        self._open: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def connected(self, address: str) -> grpc.aio.Channel:
        """A channel that is ready for calls. Raises ConnectionError when there is no answer at the address."""
        self._replace_old()
        channel = self._open.get(address)
        if channel is None:
            channel = self._open[address] = self._transport.channel(address, OPTIONS)
        try:
            async with asyncio.timeout(CONNECT_S):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state in FAILED:
                        raise ConnectionError(f"{address} cannot be reached")
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            raise ConnectionError(f"{address} does not answer") from None
        except grpc.aio.UsageError:
            raise ConnectionError(f"the channel to {address} was replaced") from None
        return channel

    def keep(self, addresses: Set[str]) -> None:
        """Closes the channels to all other addresses."""
        for address in self._open.keys() - addresses:
            self._close(address, None)

    def _replace_old(self) -> None:
        identity = self._transport.identity()
        if identity is not self._identity:
            self._identity = identity
            for address in list(self._open):
                self._close(address, LAST_STREAMS_S)

    def _close(self, address: str, grace_s: float | None) -> None:
        task = asyncio.ensure_future(self._open.pop(address).close(grace_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.keep(set())
        await asyncio.gather(*self._closing, return_exceptions=True)
