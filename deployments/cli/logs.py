"""`drafthouse logs`: what the replicas of a server on this machine have logged, also after it has stopped."""

import json
import logging
import os
import pathlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from deployments.cli import sessions
from deployments.cli.options import fail
from drafthouse.telemetry.log_lines import FIELDS, REQUEST_ID

FILES = "serve/replica_*.log*"
LOOK_S = 0.3
PASSED_LINES = 10_000
"""Those of other requests, as far as is known yet, that are kept."""

SHOWN = (
    "id",
    "key",
    "peer",
    "verifier",
    "verifiers",
    "drafter",
    "prompt_tokens",
    "finish_reason",
    "first_token_seconds",
    "seconds",
    "attempts",
)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

Line = dict[str, Any]


def logs(
    request: Annotated[str | None, typer.Option(help="Only what concerns this request: x-request-id, or the answer's id.")] = None,
    level: Annotated[str, typer.Option(help="This level and those above: debug, info, warning, error.")] = "info",
    port: Annotated[int | None, typer.Option(help="HTTP port of the server; without it the latest one.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """Show the replicas' log of a server that runs or has run on this machine.

    On a cluster of your own the files are `logs/serve/replica_*.log` in Ray's session folder on each node; docs/logs.md has the form.
    """
    if level.upper() not in LEVELS:
        fail(f"--level: {level!r} is none of {', '.join(name.lower() for name in LEVELS)}")
    found = [session for session in sessions.marked() if port in (None, session.http_port)]
    if not found:
        where = "" if port is None else f" on port {port}"
        fail(f"no server of `drafthouse serve`{where} has left logs under {sessions.ROOT}")
    reader = LogReader(found[0].logs)
    wanted = chosen(level.upper(), request)
    try:
        while True:
            for line in wanted(reader.new_lines()):
                typer.echo(json.dumps(line) if as_json else shown(line))
            if not follow:
                break
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        pass


@dataclass(slots=True)
class LogReader:
    """The lines of all replicas' files, each once. `logs` is Ray's folder of logs."""

    logs: pathlib.Path
    _read: dict[int, int] = field(default_factory=dict)  # bytes by inode: a rotated file keeps its own

    def new_lines(self) -> list[Line]:
        """What has come since the last call, in order of time; what is not JSON is left out."""
        lines: list[Line] = []
        for file in self.logs.glob(FILES):
            lines += self._new_of(file)
        return sorted(lines, key=lambda line: str(line.get("asctime", "")))

    def _new_of(self, file: pathlib.Path) -> Iterator[Line]:
        try:
            with file.open("rb") as stream:
                stat = os.fstat(stream.fileno())
                inode = stat.st_ino
                if self._read.get(inode, 0) > stat.st_size:  # another file has got the number of one that is gone
                    self._read[inode] = 0
                stream.seek(self._read.get(inode, 0))
                new = stream.read()
        except FileNotFoundError:  # just rotated
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read[inode] = self._read.get(inode, 0) + len(whole)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def chosen(level: str, request: str | None) -> Callable[[Iterable[Line]], list[Line]]:
    """What picks lines of a level or above; with `request` those that name it, or an id that a line of it has told, before or after.

    So a failover, which names the answer's id alone, comes once the line has come that tells that id: lines passed over are kept for it.
    """
    least = logging.getLevelNamesMapping()[level]
    known = {request} if request else set()
    passed: deque[Line] = deque(maxlen=PASSED_LINES)

    def concerns(line: Line) -> bool:
        text = json.dumps(line)
        return not known or any(json.dumps(name)[1:-1] in text for name in known)

    def pick(lines: Iterable[Line]) -> list[Line]:
        lines = list(lines)
        if request:
            known.update(str(fields["id"]) for line in lines if request in names_of(line) and "id" in (fields := fields_of(line)))
        lines = [line for line in lines if level_of(line) >= least]
        if request:
            lines = [*passed, *lines]
            passed.clear()
            passed.extend(line for line in lines if "id" in fields_of(line) and not concerns(line))
        return [line for line in lines if concerns(line)]

    return pick


def level_of(line: Line) -> int:
    return logging.getLevelNamesMapping().get(str(line.get("levelname")), logging.INFO)


def fields_of(line: Line) -> dict[str, Any]:
    fields = line.get(FIELDS)
    return fields if isinstance(fields, dict) else {}


def names_of(line: Line) -> set[str]:
    """The request's own names in a line."""
    return {str(place[REQUEST_ID]) for place in (line, fields_of(line)) if place.get(REQUEST_ID)}


def shown(line: Line) -> str:
    """For people: time, level, who, message, and the fields that the message has not told."""
    fields = fields_of(line)
    who = line.get("replica") or line.get("process", "")
    more = " ".join(f"{name}={_short(fields[name])}" for name in SHOWN if name in fields)
    text = f"{line.get('asctime', '')} {line.get('levelname', ''):<7} {line.get('deployment', '')} {who}  {line.get('message', '')}"
    text += f"  [{more}]" if more else ""
    request = next(iter(names_of(line)), "")
    text += f" request_id={request}" if request else ""
    return text + (f"\n{line['exc_text']}" if line.get("exc_text") else "")


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
