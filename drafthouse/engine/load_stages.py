"""The stages of a model's way into service, and how long each took: told line by line, and in the logs of replicas."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

LOG_MARK = "drafthouse load"
"""Begins these lines in a replica's log, by which `drafthouse serve` finds them."""


class LoadStages:
    """`tell` gets a line as each stage begins, and the whole list at the end."""

    def __init__(self, tell: Callable[[str], None] = lambda line: None):
        self.tell = tell
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.tell(f"{name} ..." + (f" (done: {self})" if self.seconds else ""))
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def end(self) -> None:
        self.tell(f"ready in {sum(self.seconds.values()):.1f} s: {self}")

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())


def logged(role: str) -> LoadStages:
    """Stages of a replica, on the process's own standard error, of which Ray keeps a log. In the places of `print` and `sys.stderr`
    Serve puts a logger that holds back what is not an error."""

    def tell(line: str) -> None:
        if sys.__stderr__ is not None:
            sys.__stderr__.write(f"{LOG_MARK}: {role}: {line}\n")
            sys.__stderr__.flush()

    return LoadStages(tell)
