"""How a local cluster ends: streams first, then Serve and Ray, then what is left of their processes.

Promises: each part has its time, and what fails or hangs in one does not keep the next from its work.
"""

import asyncio
import contextlib
import os
import pathlib
import sys
import traceback
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any

import psutil

APPLICATION = "drafthouse"
CONTROLLER = "ControllerReplica"
EXIT_TIMEOUT_S = 0.5
"""For Ray's own processes to be gone once they are killed."""

FAREWELL_TIMEOUT_S = 2.5
"""Until the streams have ended; without any, a second."""

SERVE_STOP_TIMEOUT_S = 1.0
"""In which drafters write what they have learned. Gateways would take longer, and nothing is lost with them: their streams have ended."""

SERVING = ("raylet", "gcs_server")
"""Of Ray's own processes these need each other to the end; all others only show and watch."""


async def end_application() -> None:
    """First the streams, whose clients get an error event and `[DONE]` while there still are proxies; then Serve."""
    from ray import serve

    await _within(FAREWELL_TIMEOUT_S, _end_streams())
    await _within(SERVE_STOP_TIMEOUT_S, serve.shutdown_async())


def end_watchers(processes: Mapping[str, Sequence[Any]]) -> None:
    """Kills the dashboard and its like at once, of Ray's own processes by type. Ray would ask one after the other, and give each a second,
    which busy machines take."""
    for kind, infos in processes.items():
        for info in infos if kind not in SERVING else ():
            info.process.kill()


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
    late = psutil.wait_procs(processes, timeout=timeout_s)[1] if timeout_s else processes
    for process in late:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(late, timeout=EXIT_TIMEOUT_S)
