"""How a gateway that starts comes to know who serves, whether the controller is there or not.

Promises: `wait` returns once this gateway has a routing table: from a controller that has heard from everyone or names a verifier, or from
another gateway, which is asked while no such answer comes. Until then Serve counts the replica as starting, and sends it no requests.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Directive

logger = logging.getLogger(__name__)

ALONE_S = 3.0
"""The controller has this long before other gateways are asked: it answers within an interval where it runs."""

ASK_S = 2.0
"""A gateway that takes longer is as good as absent. Also the time between two that are asked."""


class FirstTable:
    def __init__(self, heartbeat: Heartbeat, ask_peer: Callable[[], Awaitable[Directive]]) -> None:
        """`ask_peer` gives the last directive of any other gateway that runs."""
        self._heartbeat, self._ask_peer = heartbeat, ask_peer
        self._known = asyncio.Event()

    def directed(self, directive: Directive) -> None:
        """To be called with each directive."""
        if directive.complete or directive.verifiers:
            self._known.set()

    async def wait(self) -> None:
        """The heartbeat runs."""
        await self._known_within(ALONE_S)
        while not self._known.is_set():
            await self._ask()
            await self._known_within(ASK_S)

    async def _known_within(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):  # not wait_for, which may swallow a cancellation that comes with its own time-out
                await self._known.wait()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                directive = await self._answer()
        except Exception as error:  # fault boundary: Ray raises many kinds, and with no other gateway there is no answer
            logger.warning("no routing table yet: neither the controller nor another gateway answers (%s)", type(error).__name__)
            return
        if directive.verifiers and not self._known.is_set():
            logger.info("the routing table is another gateway's: %d verifiers", len(directive.verifiers))
            own = replace(self._heartbeat.directive, verifiers=directive.verifiers, gateways=directive.gateways + 1)
            self._heartbeat.adopt(replace(own, settings=directive.settings))  # shares are that gateway's

    async def _answer(self) -> Directive:
        answer = await self._ask_peer()
        if not isinstance(answer, Directive):
            raise TypeError(f"another gateway answered {type(answer).__name__}, not a Directive")
        return answer
