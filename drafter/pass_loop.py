"""The drafter's thread: takes messages, runs passes, hands answers to the event loop.

Promises: the engine is touched by this thread alone. A pass is never begun while messages wait,
so what a commit pruned is not run. An exception in a pass drops the session that is its cause, not
the thread: it is the one fault boundary here.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from drafter.engine import DrafterEngine, Outgoing
from drafthouse.engine_thread import engine_thread

logger = logging.getLogger(__name__)

Command = Callable[[DrafterEngine], list[Outgoing]]

JOIN_S = 2.0
"""A pass in progress is waited for so long; the thread does not outlive the process in any case."""


class PassLoop:
    def __init__(self, engine: DrafterEngine, send: Callable[[list[Outgoing]], None]):
        """`send` is called from the loop's thread with everything that one round has to say."""
        self.engine, self._send = engine, send
        self._inbox: deque[Command] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self.faults = 0
        self.busy_seconds = 0.0  # not waiting for messages
        self._thread = engine_thread(self._run, "draft-passes")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(JOIN_S)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def post(self, command: Command) -> None:
        """Runs `command` on the loop's thread before the next pass. From any thread."""
        self._inbox.append(command)
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            started = time.perf_counter()
            more = self._round()
            self.busy_seconds += time.perf_counter() - started
            if not more:
                self._wake.wait()

    def _round(self) -> bool:
        """Takes what came, then runs a pass if nothing came meanwhile; False if there was none to run."""
        out: list[Outgoing] = []
        while self._inbox:
            out += self._inbox.popleft()(self.engine)
        if out:
            self._send(out)
        if self._inbox:
            return True
        if not self.engine.has_work():
            return False
        self._pass()
        return True

    def _pass(self) -> None:
        try:
            out = self.engine.run_pass()
        except Exception as error:
            logger.exception("draft pass failed; its sessions are tried one by one")
            self.faults += 1
            out = self.engine.recover(f"the draft pass failed: {type(error).__name__}")
        if out:
            self._send(out)
