"""The loop by which every role reports to the controller and takes its directives.

Promises: reports every `interval_s` of the last directive; with no answer the last directive stays
and the loop goes on; no error ends it, and only a change between answered and unanswered is logged.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from drafthouse.wire.membership import Directive
from drafthouse.wire.reports import Report

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 1.5
"""A controller that takes longer is as good as absent: replicas go on with what they know. The next report comes an interval later,
before this replica would be taken out: an answer that is lost costs nothing."""


class RemoteMethod(Protocol):
    def remote(self, report: Report, /) -> Awaitable[Any]: ...


class ControllerHandle(Protocol):
    """What is used of a Ray Serve DeploymentHandle to the controller."""

    @property
    def heartbeat(self) -> RemoteMethod: ...


class Heartbeat:
    """Owns the last directive of this replica; `on_directive` is called with each new one, on the loop."""

    def __init__(
        self,
        controller: ControllerHandle,
        make_report: Callable[[], Report],
        interval_s: float,
        on_directive: Callable[[Directive], None] | None = None,
    ) -> None:
        self.directive = Directive(interval_s)
        self.answered: bool | None = None  # None: not tried yet
        self._controller = controller
        self._make_report = make_report
        self._on_directive = on_directive
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to report. Needs the running event loop; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")

    async def stop(self) -> None:
        """Ends the loop; to tell the controller of draining, `beat` once more before."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def beat(self) -> bool:
        """One report; True if a directive came back."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):  # not wait_for, which swallows a cancellation that comes with the answer
                answer = await self._ask()
            if not isinstance(answer, Directive):
                raise TypeError(f"the controller answered {type(answer).__name__}, not a Directive")
            self.adopt(answer.after(self.directive))
        except Exception as error:  # fault boundary: nothing that a peer or a report does may stop the loop
            self._note(False, f"{type(error).__name__}: {error}")
            return False
        self._note(True, "")
        return True

    def adopt(self, directive: Directive) -> None:
        """From now on this is the last directive."""
        self.directive = directive
        if self._on_directive is not None:
            self._on_directive(directive)

    async def _ask(self) -> Any:
        return await self._controller.heartbeat.remote(self._make_report())

    async def _run(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(self.directive.interval_s)

    def _note(self, answered: bool, reason: str) -> None:
        if answered != self.answered:
            if not answered:
                logger.warning("no answer from the controller, going on with the last directive (%s)", reason)
            elif self.answered is False:
                logger.info("the controller answers again")
        self.answered = answered
