"""The raw log of a chaos run: what the client saw, one JSON object a line, in the order in which it saw it.

    start   t, request, attempt, reference, prompt, sampling, seed, max_tokens, speculation
    token   t, request, attempt, position, token       `position` counts the request's output tokens, as the server numbers them
    end     t, request, attempt, position, reason      `position`: how many tokens the server says it sent; `error` beside `reason` "error"
    fault   t, kind, pid, signalled, lost, overlooked  what was lost, and when: see `tests.chaos.injector`

`t` is in seconds since the log began. `reference` names the request of the fault-free run with the same prompt, sampling and
seed, whose text this request's must equal; it is null in that run itself. Promises: a line of another form is a ConfigError.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from drafthouse.errors import ConfigError

Event = dict[str, Any]

KEYS = {
    "start": ("request", "attempt", "reference", "prompt", "sampling", "seed", "max_tokens", "speculation"),
    "token": ("request", "attempt", "position", "token"),
    "end": ("request", "attempt", "position", "reason"),
    "fault": ("kind", "pid", "signalled", "lost", "overlooked"),
}


class EventLog:
    def __init__(self, file: TextIO, clock: Callable[[], float] = time.monotonic):
        """`file` is the caller's."""
        self._file, self._clock, self._began = file, clock, clock()

    def now(self) -> float:
        return round(self._clock() - self._began, 4)

    def write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "t": self.now(), **fields}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_log(path: pathlib.Path) -> list[Event]:
    """Raises ConfigError naming the line."""
    try:
        with path.open(encoding="utf-8") as lines:
            return list(_events(path, lines))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--log {path}: cannot be read: {error}") from error


def _events(path: pathlib.Path, lines: TextIO) -> Iterator[Event]:
    started: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            event: Event = json.loads(line)
            missing = [key for key in ("t", *KEYS[event["event"]]) if key not in event]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--log {path}: line {number} is no event of a chaos run: {error!r}") from error
        if missing:
            raise ConfigError(f"--log {path}: line {number}: {event['event']} without {', '.join(missing)}")
        if event["event"] == "start":
            started.add(event["request"])
        elif event["event"] != "fault" and event["request"] not in started:
            raise ConfigError(f"--log {path}: line {number}: request {event['request']!r} was not started")
        yield event
