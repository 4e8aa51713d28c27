"""The verifier's thread: takes commands, steps, hands replies and drafter messages to the event loop.

Promises: only this thread touches the engine. It has two fault boundaries: an exception in a step fails the request that is its
cause, with one error reply; an exception in a command ends that command, not the thread. The thread ends only when the device
no longer works. A device that does not come back from a step is noticed by the time it takes (`trouble`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from drafthouse.engine.engine_thread import engine_thread
from drafthouse.wire.generation_messages import GenerateReply
from drafthouse.wire.session_messages import ToDrafterMessage
from verifier.engine import VerifierEngine
from verifier.step import Step, Wait

logger = logging.getLogger(__name__)

Command = Callable[[VerifierEngine], None]
Deliver = Callable[[list[GenerateReply], dict[str, list[ToDrafterMessage]]], None]

JOIN_S = 2.0
"""`stop` waits this long for a step in progress; the thread does not outlive the process in any case."""


def run_step(
    engine: VerifierEngine, departures: Callable[[], None] = lambda: None, arrivals: Callable[[], None] = lambda: None
) -> list[GenerateReply] | Wait | None:
    """One step, if the engine has one to run: its replies, else what `begin_step` says. `departures` is called before the device
    begins, to send what is in the outbox; `arrivals` when it is done, to take in what drafters have sent meanwhile."""
    step = engine.begin_step()
    if not isinstance(step, Step):
        return step
    departures()
    result = engine.runner.run(step.segments)
    arrivals()
    return engine.finish_step(step, result)


class StepLoop:
    def __init__(self, engine: VerifierEngine, deliver: Deliver):
        """`deliver` is called from the loop's thread with all that one round has to say."""
        self.engine, self._deliver = engine, deliver
        self._rounds = 0
        self._round_began: float | None = None  # monotonic seconds; None while it waits
        self._inbox: deque[Command] = deque()
        self._posting = threading.Lock()  # between a command's post and its taking there is at most one step
        self._arrivals: deque[Command] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self.faults = 0
        self._thread = engine_thread(self._run, "verify-steps")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(JOIN_S)

    @property
    def trouble(self) -> str:
        """Why no more replies are to be expected; empty while there is no such reason. From any thread."""
        began, limit_s = self._round_began, self.engine.scheduler.config.step_limit_s
        if not self._thread.is_alive():
            return "the verification thread has died"
        if began is not None and time.monotonic() - began > limit_s:
            return f"a verification step takes longer than {limit_s:g} s (verifier.step_limit_s)"
        return ""

    @property
    def round(self) -> int | None:
        """The number of the step in progress, with the commands before it; None while there is none. From any thread."""
        return self._rounds if self._round_began is not None else None

    def post(self, command: Command) -> None:
        """Runs `command` on the loop's thread before the next step. From any thread."""
        with self._posting:
            self._inbox.append(command)
        self._wake.set()

    def post_cancel(self, request: str, attempt: int) -> None:
        """As `post`; the engine counts the steps from here to the release."""
        with self._posting:
            heard_at_step = self.engine.totals.steps
            self._inbox.append(lambda engine: engine.cancel(request, attempt, heard_at_step))
        self._wake.set()

    def post_arrival(self, command: Command) -> None:
        """As `post`, for messages of drafters and news of their streams, which stay in order. They may also be taken between a step's
        run and its commit."""
        self._arrivals.append(command)
        self._wake.set()

    def _take(self, commands: deque[Command]) -> None:
        while commands:
            try:
                commands.popleft()(self.engine)
            except Exception:
                logger.exception("a command to the verification thread failed")
                self.faults += 1

    def _take_arrivals(self) -> None:
        self._take(self._arrivals)

    def _begin_round(self) -> None:
        self._rounds += 1
        self._round_began = time.monotonic()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._begin_round()
            with self._posting:
                commands, self._inbox = self._inbox, deque()
            self._take(commands)
            self._take_arrivals()
            self._flush([])
            try:
                outcome = run_step(self.engine, lambda: self._flush([]), self._take_arrivals)
            except Exception as error:
                logger.exception("verification step failed; its requests are tried one by one")
                self.faults += 1
                self._begin_round()
                self._flush(self.engine.recover(f"{type(error).__name__}: {error}"))
                continue
            self._round_began = None
            if outcome is None:
                self._wake.wait()
            elif isinstance(outcome, Wait):
                self._wake.wait(max(0.0, outcome.until - self.engine.clock()))
            else:
                self._flush(outcome)

    def _flush(self, replies: list[GenerateReply]) -> None:
        messages = self.engine.draft_sessions.take_outbox()
        if replies or messages:
            self._deliver(replies, messages)
