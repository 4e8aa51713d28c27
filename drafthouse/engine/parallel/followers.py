"""The other ranks of a tensor-parallel replica, as rank 0 sees them: who has called, what they are told, whether they live.

Promises: a rank that ends, fails or is stopped is noticed once, whatever rank 0 is doing meanwhile, and with it
the whole group is lost: the ranks hold parts of one model and stand in the middle of the same sums, so none can
go on without the others. A rank that is only slow, on a machine with too much to do, is waited for.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from typing import Any

import psutil

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.parallel.invitation import Failure, Hello, Invitation, Launcher
from drafthouse.errors import ModelError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

WATCH_S = 0.5
"""A rank's process is looked at this often, and a rank looks so often whether rank 0 still listens."""

STOPPED_LOOKS = 5
"""Seen stopped (SIGSTOP, a debugger) so many times in a row, 2 to 2.5 s after the signal, a rank is lost. Its silence would not do: on
a machine with too much to do a rank may not get to say a word for longer than this."""

ARRIVAL_POLL_S = 0.2


def end_process(reason: str) -> None:
    """What a lost rank does to a serving process. It may hang in a collective that nobody can abort, so it is not unwound:
    its end frees the devices, tells gateways and drafters by their broken streams, and has Serve start the replica again."""
    logger.critical("the replica ends, since its ranks cannot go on: %s", reason)
    os._exit(1)


class Followers:
    """`pids` by rank, from 1."""

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self.reason = ""  # why the group is lost
        self._links: dict[int, Connection] = {}
        self._lost = threading.Event()
        self._closed = False
        self._on_lost: Callable[[str], None] | None = None
        self._lock = threading.Lock()

    def invite(self, config: ModelConfig, launcher: Launcher) -> None:
        """Has them started and waits until all have called. Raises ModelError when one cannot come."""
        key = secrets.token_bytes(32)
        with Listener((LOOPBACK, 0), backlog=config.parallel, authkey=key) as listener:
            port = listener.address[1]
            launcher.start(config, [Invitation(rank, port, key) for rank in range(1, config.parallel)])
            self._await_all(listener, config.parallel - 1, launcher)
        for rank, link in self._links.items():
            threading.Thread(target=self._listen, args=(rank, link), name=f"rank-{rank}", daemon=True).start()

    def _await_all(self, listener: Listener, count: int, launcher: Launcher) -> None:
        def accept() -> None:
            while len(self._links) < count:
                try:
                    link = listener.accept()
                    hello: Hello = link.recv()
                except (AuthenticationError, EOFError, OSError):  # a stranger, or nobody is awaited any more
                    if self._closed:
                        return
                    continue
                self.pids[hello.rank] = hello.pid
                self._links[hello.rank] = link
            arrived.set()

        arrived = threading.Event()
        threading.Thread(target=accept, name="ranks", daemon=True).start()
        while not arrived.wait(ARRIVAL_POLL_S):
            if reason := launcher.failure():
                self._closed = True
                raise ModelError(f"parallel: {reason}")

    def _listen(self, rank: int, link: Connection) -> None:
        name, stopped = f"rank {rank} (pid {self.pids[rank]})", 0
        while stopped < STOPPED_LOOKS:
            try:
                message = link.recv() if link.poll(WATCH_S) else None
                status = psutil.Process(self.pids[rank]).status()
            except (EOFError, OSError, psutil.NoSuchProcess):
                return self.lose(f"{name} has ended")
            if isinstance(message, Failure):
                return self.lose(f"{name}: {message.reason}")
            stopped = stopped + 1 if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP) else 0
        self.lose(f"{name} has been stopped for {stopped * WATCH_S:g} s")

    def send(self, message: Any) -> None:
        """To all, in order of rank. Raises OSError when one is gone."""
        for rank in sorted(self._links):
            self._links[rank].send(message)

    def lose(self, reason: str) -> None:
        """Gives the group up, with the first reason that is given."""
        with self._lock:
            if self._closed or self.reason:
                return
            self.reason = reason
            callback = self._on_lost
        self._lost.set()
        if callback is not None:
            callback(reason)

    def when_lost(self, callback: Callable[[str], None]) -> None:
        """Calls back once, from any thread; at once if it has happened."""
        with self._lock:
            self._on_lost, happened = callback, bool(self.reason)
        if happened:
            callback(self.reason)

    def wait_lost(self, seconds: float) -> bool:
        return self._lost.wait(seconds)

    def close(self) -> None:
        """Lets the followers end, without a word of loss."""
        self._closed = True
        for link in self._links.values():
            link.close()
