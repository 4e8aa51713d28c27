"""Memory and open files of a server's processes while it works, and whether they grow with the requests.

Promises: what is said of a process covers the time after the warm-up alone, and processes that lived through all of it.
"""

import contextlib
import pathlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

MB = float(1 << 20)
REPLICA = "ray::ServeReplica:"
INTERPRETERS = ("python", "pypy")


@dataclass(frozen=True, slots=True)
class Sample:
    """When `requests` had ended. RSS counts pages that processes share in each of them, PSS shares them out."""

    requests: int
    rss_mb: float
    pss_mb: float
    files: int


@dataclass(frozen=True, slots=True)
class Growth:
    """RSS in MB after the warm-up, in the middle, at the end; slopes in MB per 1,000 requests by least squares."""

    process: str
    start_mb: float
    middle_mb: float
    end_mb: float
    rss_slope: float
    pss_end_mb: float
    pss_slope: float
    files_start: int
    files_end: int


class MemoryWatch:
    """Samples `processes()` each `pause_s` in a thread of its own, from the first request until it is left."""

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]], ended: Callable[[], int], pause_s: float):
        self._processes, self._ended, self._pause_s = processes, ended, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self.samples: dict[str, list[Sample]] = {}

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.look()

    def look(self) -> None:
        requests = self._ended()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):  # it may end meanwhile
                name = f"{name_of(process.cmdline())} {process.pid}"
                memory, files = process.memory_full_info(), process.num_fds()
                self.samples.setdefault(name, []).append(Sample(requests, memory.rss / MB, memory.pss / MB, files))

    def report(self, warm_up: int) -> list[dict[str, Any]]:
        """The largest process first; those that were there all the time after `warm_up` requests."""
        growths = [growth(name, [sample for sample in samples if sample.requests >= warm_up]) for name, samples in self.samples.items()]
        counts = [found[1] for found in growths]
        lasting = [found[0] for found in growths if found[0] is not None and found[1] == max(counts)]
        return [asdict(row) for row in sorted(lasting, key=lambda row: -row.end_mb)]


def growth(name: str, samples: Sequence[Sample]) -> tuple[Growth | None, int]:
    """What became of a process, and from how many samples; None where there are too few for a slope."""
    if len(samples) < 3:
        return None, len(samples)
    first, middle, last = samples[0], samples[len(samples) // 2], samples[-1]
    return (
        Growth(
            name, first.rss_mb, middle.rss_mb, last.rss_mb, _slope(samples, [sample.rss_mb for sample in samples]),
            last.pss_mb, _slope(samples, [sample.pss_mb for sample in samples]), first.files, last.files,
        ),
        len(samples),
    )  # fmt: skip


def _slope(samples: Sequence[Sample], values: Sequence[float]) -> float:
    thousands = np.array([sample.requests for sample in samples]) / 1000.0
    spread = thousands - thousands.mean()
    return float(spread @ np.array(values) / max(spread @ spread, 1e-12))


def name_of(command: Sequence[str]) -> str:
    """A word or two for a process of a server: a replica's deployment without what it is doing, a script's name, or the program's."""
    program = command[0] if command else "?"
    if program.startswith(REPLICA):
        return program.rpartition(":")[2].split()[0].partition(".")[0].lower()
    if program.startswith("ray::"):
        return program.split()[0].partition(".")[0]
    scripts = [part for part in command[1:] if part.endswith(".py")]
    if scripts and pathlib.Path(program).name.startswith(INTERPRETERS):
        return "/".join(pathlib.Path(scripts[0]).parts[-2:])
    return pathlib.Path(program).name
