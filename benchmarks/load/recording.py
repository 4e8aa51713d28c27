"""`--record`: the run's requests with the acceptance traces of its drafters, for the simulator.

Promises: only requests of policy `auto` go in, since other policies draft the same texts again;
arrivals count from the first block's start, blocks one after the other.
"""

import os
import pathlib
from collections.abc import Sequence

from benchmarks.load.blocks import Block
from benchmarks.load.client import Served
from drafthouse.errors import ConfigError
from simulator.policies import AUTO, WORKLOADS
from simulator.trace import RecordedRequest, write_joined


def recorded(blocks: Sequence[Block]) -> list[RecordedRequest]:
    requests: list[RecordedRequest] = []
    begun = 0.0
    for block in blocks:
        if block.policy == AUTO:
            requests += [_recorded(block.place.workload, served, begun + served.at_s) for served in block.served]
            begun += block.finish_s
    return requests


def _recorded(workload: str, served: Served, arrival_s: float) -> RecordedRequest:
    c = served.completion
    return RecordedRequest(c.id, workload, WORKLOADS[workload], arrival_s, c.prompt_tokens, c.tokens, served.latency_s)


def write_recording(path: pathlib.Path, blocks: Sequence[Block], folder: pathlib.Path) -> None:
    """`folder` holds the drafters' traces. Raises ConfigError naming the file at fault."""
    write_joined(path, recorded(blocks), folder)


def check_recording(path: pathlib.Path | None, url: str | None) -> None:
    """Raises ConfigError naming --record: before a run of minutes, not after it."""
    if path is None:
        return
    if url is not None:
        raise ConfigError("--record: only drafters that this command starts write traces; leave --url out")
    if not (path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
        raise ConfigError(f"--record {path}: cannot be written")
