"""The verifier's end of the stream to one drafter: dials, re-dials, coalesces.

Promises: what is to be said at one moment goes out as one message, without what the drafter does not understand. When the stream
breaks, ends or falls silent, `lost`
is called once and the client dials again, with growing pauses where it is not let in, until it is closed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from drafthouse.errors import WireError
from drafthouse.wire.dialect import OURS, Dialect, Feature, IncompatibleError, said_in
from drafthouse.wire.fields import shown
from drafthouse.wire.session_messages import Commit, ToDrafterMessage, ToVerifierMessage, from_verifier_proto, session_of, to_drafter_proto
from drafthouse.wire.settings import DRAFTER_METADATA
from drafthouse.wire.silence import BEAT_S, Silence, while_heard
from drafthouse.wire.states import MAX_STATES_BYTES, StatesWish, wish_in
from drafthouse.wire.transport import Transport
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
OPEN_S = 2.0
"""A drafter that has not taken the stream by then is dialled again."""


def within(messages: list[ToDrafterMessage]) -> tuple[list[ToDrafterMessage], list[ToDrafterMessage]]:
    """Those that go out as one message, and the rest: states of many prompts come to more than a message may hold."""
    size = 0
    for i, message in enumerate(messages):
        size += len(message.states) if isinstance(message, Commit) else 0
        if size > MAX_STATES_BYTES:
            return messages[:i], messages[i:]
    return messages, []


class DrafterClient:
    def __init__(
        self,
        drafter: str,
        address: str,
        verifier: str,
        transport: Transport,
        connected: Callable[[str, StatesWish | None], None],
        lost: Callable[[str], None],
        received: Callable[[str, list[ToVerifierMessage]], None],
        malformed: Callable[[str, int, str], None],
    ):
        """`connected` is told which hidden states the drafter asks for."""
        self.drafter, self.address, self.verifier, self._transport = drafter, address, verifier, transport
        self._connected, self._lost, self._received, self._malformed = connected, lost, received, malformed
        self._messages: list[ToDrafterMessage] = []
        self._ready = asyncio.Event()  # of the stream that was dialled last: who waits for an older one has nothing to say
        self._probe_at = 0.0
        self.round_trip_s: float | None = None
        self.incompatible = ""  # why the two could not talk when the drafter was last dialled
        self._peer = Dialect()
        self._wish: StatesWish | None = None
        self._told_unknown = False  # of messages of unknown kinds; the log has one line for all of them
        self.task = asyncio.create_task(self._run())

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def send(self, messages: list[ToDrafterMessage]) -> None:
        self._messages += messages
        self._ready.set()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            async with self._transport.channel(self.address) as channel:
                connected = False
                try:
                    async with asyncio.timeout(OPEN_S):
                        stream = await self._open(channel)
                    connected, pause = True, FIRST_PAUSE_S
                    self._connected(self.drafter, self._wish)
                    silence = Silence()
                    await while_heard(silence, self._listen(stream, silence))
                except (grpc.RpcError, TimeoutError, ConnectionError) as error:
                    self.incompatible = str(error) if isinstance(error, IncompatibleError) else ""
                    logger.info("drafter %s at %s: %s %s", self.drafter, self.address, type(error).__name__, error)
                finally:
                    if connected:
                        self._lost(self.drafter)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _open(self, channel: grpc.aio.Channel) -> Any:
        """The stream, once the drafter has taken it. Raises ConnectionError when it is refused, IncompatibleError where the two could
        not talk."""
        await channel.channel_ready()
        self._messages, self._ready = [], asyncio.Event()
        stream = rpc.DrafterStub(channel).Connect(self._outgoing(self._ready), metadata=OURS.metadata())  # type: ignore[no-untyped-call]
        said = await stream.initial_metadata() or ()
        if DRAFTER_METADATA not in said:
            code, details = await stream.code(), await stream.details()
            if code is grpc.StatusCode.FAILED_PRECONDITION:
                raise IncompatibleError(shown(details))
            raise ConnectionError(f"{code.name}: {details}")
        self._peer = said_in(said)
        OURS.check(self._peer, "drafter")
        self._wish = self._wish_in(said)
        self.incompatible = ""
        return stream

    def _wish_in(self, said: Any) -> StatesWish | None:
        if Feature.STATES not in self._peer.features:
            return None
        try:
            return wish_in(said)
        except WireError as error:
            logger.warning("drafter %s is sent no hidden states: %s", self.drafter, error)
            return None

    async def _listen(self, stream: Any, silence: Silence) -> None:
        async for batch in stream:
            silence.heard()
            if batch.echo_us:
                trip = time.perf_counter() - batch.echo_us / 1e6 - batch.echo_delay_us / 1e6
                self.round_trip_s = trip if self.round_trip_s is None else 0.8 * self.round_trip_s + 0.2 * trip
            self._take(batch)

    async def _outgoing(self, ready: asyncio.Event) -> AsyncIterator[pb.ToDrafter]:
        """gRPC asks for the next message of a stream that has ended, too: what is queued by then is for another."""
        while True:
            with contextlib.suppress(TimeoutError):  # nothing to say: only the probe goes out, which the drafter echoes
                await asyncio.wait_for(ready.wait(), timeout=BEAT_S)
            if ready is not self._ready:
                return
            ready.clear()
            messages, self._messages = within(self._messages)
            if self._messages:
                ready.set()
            understood = [to_drafter_proto(self._peer.worded(m)) for m in messages if self._peer.understands(m)]
            batch = pb.ToDrafter(verifier=self.verifier, messages=understood)
            now = time.perf_counter()
            if now - self._probe_at >= BEAT_S:
                batch.echo_us, self._probe_at = int(now * 1e6), now
            yield batch

    def _take(self, batch: pb.ToVerifier) -> None:
        good: list[ToVerifierMessage] = []
        for proto in batch.messages:
            try:
                good.append(from_verifier_proto(proto))
            except WireError as error:
                named = session_of(proto)
                if named is not None or not self._told_unknown:
                    logger.warning("malformed message from drafter %s: %s", self.drafter, error)
                self._told_unknown = self._told_unknown or named is None
                self._malformed(*(named or ("", 0)), str(error))
        if good:
            self._received(self.drafter, good)
