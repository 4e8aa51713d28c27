"""The verifier's end of one gateway's stream: what is to be said there, and which of its requests run here.

Promises: what is ready at one moment goes out as one message, at least one a beat. What waits to be read is bounded: a gateway that
does not read is left.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from drafthouse.wire.dialect import Dialect
from drafthouse.wire.generation_messages import GenerateReply, Refusal, to_refusal_proto, to_reply_proto
from drafthouse.wire.silence import Silence
from protos import dataplane_pb2 as pb

logger = logging.getLogger(__name__)

OUTBOX_REPLIES = 1 << 18
"""About 100 MB; 1,000 streams at steps of 10 ms make this many in 2.6 s, after which a silent gateway is taken for dead anyway."""

OUTBOX_TRACES = 1 << 12
"""Where more replies than this wait, further traces have their accepted nodes alone."""

Key = tuple[str, int]
"""Request and attempt."""


class GatewayStream:
    """`requests` are those that have not had their last reply. `peer` is what the gateway understands. `over_full`: the stream is cut,
    since its gateway does not read. `unreadable`: what its gateway sent is no message."""

    def __init__(self, name: str, peer: Dialect, draining: bool, cut: Callable[[], object]) -> None:
        """`name` stands in logs; `cut` ends the stream whatever it is waiting for."""
        self.name, self.peer, self.draining, self._cut = name, peer, draining, cut
        self.stalled = False
        self.requests: set[Key] = set()
        self.silence = Silence()
        self.over_full = self.unreadable = False
        self._replies: list[GenerateReply] = []
        self._refusals: list[Refusal] = []
        self._ready = asyncio.Event()

    def say(self, reply: GenerateReply) -> None:
        if self.over_full:
            return
        if reply.trace is not None and len(self._replies) >= OUTBOX_TRACES:
            reply = replace(reply, trace=reply.trace.slim())
        self._replies.append(reply)
        self._ready.set()
        if len(self._replies) > OUTBOX_REPLIES:
            logger.warning("gateway at %s does not read what it is sent: its stream is cut", self.name)
            self.over_full = True
            self._replies.clear()
            self._cut()

    def refuse(self, refusal: Refusal) -> None:
        self._refusals.append(refusal)
        self._ready.set()

    def drain(self) -> None:
        self.draining = True
        self._ready.set()

    def stall(self, stalled: bool) -> None:
        """Whether the device does not come back."""
        self.stalled = stalled
        self._ready.set()

    def wake(self) -> None:
        """`ready` returns, though there may be nothing to say."""
        self._ready.set()

    async def ready(self, limit_s: float) -> None:
        """Returns when there is something to say, and after `limit_s` in any case."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._ready.wait()
        self._ready.clear()

    def take(self) -> pb.ToGateway:
        replies, self._replies = self._replies, []
        refusals, self._refusals = self._refusals, []
        return pb.ToGateway(
            replies=[to_reply_proto(reply) for reply in replies],
            refusals=[to_refusal_proto(refusal) for refusal in refusals],
            draining=self.draining,
            stalled=self.stalled,
        )

    @property
    def empty(self) -> bool:
        """Nothing runs, and nothing waits to be said."""
        return not (self.requests or self._replies or self._refusals)
