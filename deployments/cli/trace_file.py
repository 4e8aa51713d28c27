"""A file with the trace of one output: a line of JSON for each verification step, in the shape that the API has (docs/trace.md).

Promises: what cannot be written is a ConfigError that names the option, and what is no trace one that names the line and the field.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import ValidationError

from drafthouse.errors import ConfigError
from drafthouse.token_tree import ROOT

if TYPE_CHECKING:
    from deployments.api.trace_form import TraceOfStep


class TraceFile:
    """`path` None: there is no file."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def write(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Each step goes out at once, so that a broken text leaves its trace. Raises ConfigError."""
        if self._path is None or not steps:
            return
        with self._named():
            self._file = self._file or self._path.open("w", encoding="utf-8")
            self._file.writelines(json.dumps(step) + "\n" for step in steps)
            self._file.flush()

    def close(self) -> None:
        """Raises ConfigError."""
        if self._file is not None:
            with self._named():
                self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"--trace {self._path}: cannot be written: {error.strerror or error}") from error


def read_steps(file: pathlib.Path) -> "Iterator[TraceOfStep]":
    """Raises ConfigError naming the file, and of its content the line and the field at fault."""
    from deployments.api.trace_form import TraceOfStep

    try:
        lines = file.read_bytes().split(b"\n")  # text may hold other ends of lines
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not any(line.strip() for line in lines):
        raise ConfigError(f"{file}: it has no steps; make one with `drafthouse generate --trace {file}`")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            step = TraceOfStep.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "step"
            raise ConfigError(f"{file}, line {number}: {field}: {first['msg']}") from error
        _check_tree(step, f"{file}, line {number}")
        yield step


def _check_tree(step: "TraceOfStep", place: str) -> None:
    if not all(ROOT <= node.parent < i for i, node in enumerate(step.nodes)):
        raise ConfigError(f"{place}: nodes: a parent must be -1 or a node before its child")
    if not all(0 <= node < len(step.nodes) for node in step.accepted):
        raise ConfigError(f"{place}: accepted: there is no such node")
