"""How a local cluster ends: streams first, then Serve and Ray, then what is left of their processes.

Promises: each part has its time, and what fails or hangs in one does not keep the next from its work.
"""

import asyncio
import contextlib
import os
import pathlib
import sys
import traceback
from collections.abc import Awaitable, Iterator

import psutil

APPLICATION = "drafthouse"
CONTROLLER = "ControllerReplica"
EXIT_TIMEOUT_S = 0.5
"""For Ray's own processes, when all that they served has ended."""

FAREWELL_TIMEOUT_S = 2.5
"""Until the streams have ended; without any, a second."""

SERVE_STOP_TIMEOUT_S = 2.0
"""Serve waits for replicas to drain and to end; nothing is lost with those that it would wait longer for."""


async def end_application() -> None:
    """First the streams, whose clients get an error event and `[DONE]` while there still are proxies; then Serve."""
    from ray import serve

    await _within(FAREWELL_TIMEOUT_S, _end_streams())
    await _within(SERVE_STOP_TIMEOUT_S, serve.shutdown_async())


async def _end_streams() -> None:
    from ray import serve

    await serve.get_deployment_handle(CONTROLLER, APPLICATION).stop.remote()


async def _within(timeout_s: float, work: Awaitable[None]) -> None:
    """Does the work, but goes on after `timeout_s`, or when it fails: what follows ends processes that do not go by themselves."""
    try:
        await asyncio.wait_for(work, timeout_s)
    except Exception:  # fault boundary: Ray raises many kinds for what is half gone
        traceback.print_exc()


@contextlib.contextmanager
def quiet(logs: pathlib.Path | None) -> Iterator[None]:
    """Ray tells of everything that it loses, here on purpose: to `stop.err` among its logs, not to the terminal.

    A full disk or a closed terminal does not keep the cluster from stopping.
    """
    into = _opened(logs)
    _flush()
    kept = {}
    for number in (1, 2):
        with contextlib.suppress(OSError):
            kept[number] = os.dup(number)
            os.dup2(into, number)
    try:
        yield
    finally:
        _flush()
        for number, former in kept.items():
            os.dup2(former, number)
            os.close(former)
        os.close(into)


def _opened(logs: pathlib.Path | None) -> int:
    if logs is not None:
        with contextlib.suppress(OSError):
            return os.open(logs / "stop.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    return os.open(os.devnull, os.O_WRONLY)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def end_processes(processes: list[psutil.Process], timeout_s: float) -> None:
    """Returns when all are gone; those that do not go by themselves in time are killed."""
    late = psutil.wait_procs(processes, timeout=timeout_s)[1]
    for process in late:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(late, timeout=EXIT_TIMEOUT_S)
