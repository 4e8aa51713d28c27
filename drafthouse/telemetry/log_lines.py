"""Where a replica's log lines go: to Ray Serve's file and to standard error, as one JSON object a line.

Promises: what any module logs keeps its level, and an event has its fields beside the message. Knows no Ray: Serve's logger is
found by its name, and its handlers may be replaced at any time. Lines have the names of fields that Ray's JSON lines have, so that
one reader reads both. Neither prompts, texts nor API keys are logged.
"""

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol

SERVE_LOGGER = "ray.serve"
PACKAGES = ("drafthouse", "verifier", "drafter", "controller", "deployments")
"""Of these INFO is logged, of all others warnings."""

SERVE_LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""Of every deployment. Serve would add a line for each heartbeat; requests have lines of their own."""

FIELDS = "fields"
"""The attribute of a record under which an event's fields stand."""

REQUEST_ID = "request_id"
"""The attribute under which Serve puts the request that it serves: what the client got in `x-request-id`."""


class JsonLines(logging.Formatter):
    """One line for each record, whatever its message contains."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
        }
        if record.exc_info:
            line["exc_text"] = self.formatException(record.exc_info)
        line |= {name: value for name in (REQUEST_ID, FIELDS) if (value := getattr(record, name, None))}
        return json.dumps(line, default=str)


class ToServe(logging.Handler):
    """Hands records on to Serve's logger, as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        serve = logging.getLogger(SERVE_LOGGER)
        if serve.handlers and serve.isEnabledFor(record.levelno):
            serve.handle(record)


class Stream(Protocol):
    def write(self, text: str, /) -> Any: ...
    def flush(self) -> None: ...


def set_up_logs(stream: Stream | None = sys.__stderr__, root: logging.Logger | None = None) -> None:
    """Once in each replica's process, before it loads anything; a second call changes nothing.

    `stream` is the process's own standard error: in the place of `sys.stderr` Serve puts a logger of level INFO.
    """
    root = root or logging.getLogger()
    if not any(isinstance(handler, ToServe) for handler in root.handlers):
        root.addHandler(ToServe())
        if stream is not None:
            lines = logging.StreamHandler(stream)
            lines.setFormatter(JsonLines())
            root.addHandler(lines)
    for package in PACKAGES:
        root.getChild(package).setLevel(logging.INFO)


def log_event(logger: logging.Logger, level: int, event: str, message: str, **fields: Any) -> None:
    """One line of an event that has a name; `fields` are numbers, texts, and lists of them. What is None is left out."""
    known: Mapping[str, Any] = {"event": event, **{name: value for name, value in fields.items() if value is not None}}
    logger.log(level, "%s", message, extra={FIELDS: known}, stacklevel=2)
