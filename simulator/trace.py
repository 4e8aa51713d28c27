"""Acceptance traces: what clients asked of a live run, and where its draft agreed with the target.

A trace is a file of JSON lines, packed if its name ends in `.gz`: the header `HEADER`, then one
`TraceRequest` a line. Promises: `read` gives at least one request and only sound numbers; what is
wrong is a ConfigError that names the file, the line and the field.
"""

import gzip
import json
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drafthouse.config.faults import describe
from drafthouse.errors import ConfigError

DEMO = pathlib.Path(__file__).parent / "demo.jsonl.gz"
"""Recorded from the demo pair, both workloads of `bench load`: comes with the package."""

HEADER = {"format": "drafthouse acceptance trace", "version": 1}

SUM_SLACK = 1e-3
"""Edges are written with four digits, so those of siblings may add up to a little more than 1."""

Edge = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Position = tuple[tuple[Edge, ...], int]
"""Edges of the children that the draft had below the token before, in rank order, and the rank of the committed token, or -1."""


class TraceRequest(BaseModel):
    """One request. `positions[i]` is what was drafted for output token `i`, None where the draft had not run on the token before.

    `arrival_s` counts from the first request's; `latency_s` is what the client measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: str = Field(min_length=1)
    temperature: float = Field(ge=0, allow_inf_nan=False)
    arrival_s: float = Field(ge=0, allow_inf_nan=False)
    prompt_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    latency_s: float = Field(ge=0, allow_inf_nan=False)
    positions: tuple[Position | None, ...]

    @model_validator(mode="after")
    def _sound(self) -> "TraceRequest":
        if len(self.positions) != self.output_tokens:
            raise ValueError(f"positions: {len(self.positions)} of them, but output_tokens is {self.output_tokens}")
        for i, position in enumerate(self.positions):
            if position is not None:
                edges, hit = position
                if not -1 <= hit < len(edges):
                    raise ValueError(f"positions.{i}: hit {hit} is no rank among {len(edges)} edges, nor -1")
                if sum(edges) > 1 + SUM_SLACK:
                    raise ValueError(f"positions.{i}: edges add up to {sum(edges):.4g}, more than 1")
        return self


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as its client saw it; `response_id` is the `id` of the HTTP response, of one choice."""

    response_id: str
    workload: str
    temperature: float
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    latency_s: float


def write_joined(path: pathlib.Path, requests: Iterable[RecordedRequest], trace_folder: pathlib.Path) -> int:
    """Joins requests with the JSON lines that the drafters' `drafter.trace` left in the folder; returns how many were written.

    Requests of which no drafter wrote anything (speculation off) are left out. Raises ConfigError
    when none is left, or a line or the file is at fault.
    """
    drafted = _drafted(trace_folder)
    joined = [_join(request, drafted[f"{request.response_id}-0"]) for request in requests if f"{request.response_id}-0" in drafted]
    if not joined:
        raise ConfigError(f"{trace_folder}: the drafters wrote of none of the requests; is drafter.trace this folder?")
    write(path, joined)
    return len(joined)


def write(path: pathlib.Path, requests: Iterable[TraceRequest]) -> None:
    lines = [json.dumps(HEADER), *(json.dumps(request.model_dump(), separators=(",", ":")) for request in requests)]
    data = ("\n".join(lines) + "\n").encode()
    try:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def read(path: pathlib.Path) -> list[TraceRequest]:
    """All requests, by arrival."""
    lines = enumerate(_lines(path), start=1)
    if _object(path, *next(lines, (1, ""))) != HEADER:
        raise ConfigError(f"{path}, line 1: not the header of an acceptance trace, {json.dumps(HEADER)}")
    requests = []
    for number, line in lines:
        try:
            requests.append(TraceRequest.model_validate(_object(path, number, line)))
        except ValidationError as error:
            raise ConfigError(f"{path}, line {number}: {'; '.join(describe(error)[:3])}") from error
    if not requests:
        raise ConfigError(f"{path}: the trace is empty, it has no request after its header")
    if not any(position for request in requests for position in request.positions):
        raise ConfigError(f"{path}: positions: no request has one; the trace was recorded without drafts")
    return sorted(requests, key=lambda request: request.arrival_s)


def _join(request: RecordedRequest, drafted: dict[int, Position]) -> TraceRequest:
    """`position` in a drafter's line counts all tokens, the prompt's too."""
    first = request.prompt_tokens
    positions = tuple(drafted.get(first + i) for i in range(request.output_tokens))
    return TraceRequest(
        workload=request.workload, temperature=request.temperature, arrival_s=request.arrival_s, prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens, latency_s=request.latency_s, positions=positions,
    )  # fmt: skip


def _drafted(folder: pathlib.Path) -> dict[str, dict[int, Position]]:
    """By session and position. A session that moved to another drafter may have a position twice; either will do."""
    drafted: defaultdict[str, dict[int, Position]] = defaultdict(dict)
    for path in sorted(p for p in folder.glob("*") if p.is_file()):
        for number, line in enumerate(_lines(path), start=1):
            entry = _object(path, number, line)
            try:
                edges = tuple(round(float(edge), 4) for edge in entry["edges"])
                drafted[str(entry["session"])][int(entry["position"])] = edges, int(entry["hit"])
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{path}, line {number}: not a drafter's trace: {error}") from error
    return drafted


def _lines(path: pathlib.Path) -> Iterator[str]:
    """Lines that are not empty. A last line without its end is still being written, or was when its process died."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    whole, _, _ = text.rpartition("\n")
    yield from (line for line in whole.split("\n") if line.strip())


def _object(path: pathlib.Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}, line {number}: not an object")
    return found
