"""The drafter's thread: takes messages, runs passes, hands answers to the event loop.

Promises: the engine is touched by this thread alone. A pass is never begun while messages wait,
so what a commit pruned is not run. An exception in a pass drops the session that is its cause, and one in a command
ends that command, not the thread: these are the fault boundaries here. When the thread ends all the same, it says so.
A device that does not come back is noticed by the time that a pass, or a command, takes (`trouble`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from drafter.engine import DrafterEngine, Outgoing
from drafthouse.engine.engine_thread import engine_thread

logger = logging.getLogger(__name__)

Command = Callable[[DrafterEngine], list[Outgoing]]

JOIN_S = 2.0
"""A pass in progress is waited for so long; the thread does not outlive the process in any case."""


class PassLoop:
    def __init__(self, engine: DrafterEngine, send: Callable[[list[Outgoing]], None], ended: Callable[[], None], limit_s: float):
        """From the loop's thread: `send` is called with everything that one round has to say, `ended` when no round will follow."""
        self.engine, self._send, self._ended, self.limit_s = engine, send, ended, limit_s
        self._count = 0
        self._began: float | None = None  # the command or pass that runs, in monotonic seconds; None while it waits for messages
        self._inbox: deque[Command] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._alive = False
        self.faults = 0
        self.busy_seconds = 0.0  # not waiting for messages
        self._thread = engine_thread(self._run, "draft-passes")

    def start(self) -> None:
        self._alive = True
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(JOIN_S)

    @property
    def trouble(self) -> str:
        """Why no more drafts are to be expected; empty while there is no such reason. From any thread."""
        began = self._began
        if not self._alive:
            return "the drafting thread has died"
        if began is not None and time.monotonic() - began > self.limit_s:
            return f"a draft pass takes longer than {self.limit_s:g} s (drafter.pass_limit_s)"
        return ""

    @property
    def current(self) -> int | None:
        """The number of the command or pass that runs; None while it waits for messages. From any thread."""
        return self._count if self._began is not None else None

    def post(self, *commands: Command) -> None:
        """Runs them, in order, on the loop's thread, with no pass before or between them. From any thread."""
        self._inbox.extend(commands)
        self._wake.set()

    def count_fault(self, what: str) -> None:
        """Of the exception that is being handled."""
        logger.exception(what)
        self.faults += 1

    def _begin(self) -> None:
        self._count += 1
        self._began = time.monotonic()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.clear()
                started = time.perf_counter()
                more = self._round()
                self._began = None
                self.busy_seconds += time.perf_counter() - started
                if not more:
                    self._wake.wait()
        finally:
            self._alive = False
            self._ended()

    def _round(self) -> bool:
        """Takes what came, then runs a pass if nothing came meanwhile; False if there was none to run."""
        out: list[Outgoing] = []
        while self._inbox:
            self._begin()
            try:
                out += self._inbox.popleft()(self.engine)
            except Exception:
                self.count_fault("a command to the drafting thread failed")
        if out:
            self._send(out)
        if self._inbox:
            return True
        if not self.engine.has_work():
            return False
        self._begin()
        self._pass()
        return True

    def _pass(self) -> None:
        try:
            out = self.engine.run_pass()
        except Exception as error:
            self.count_fault("draft pass failed; its sessions are tried one by one")
            self._begin()
            out = self.engine.recover(f"the draft pass failed: {type(error).__name__}")
        if out:
            self._send(out)
