"""Acceptance traces made up for tests: calibrated by construction."""

import random
from collections.abc import Callable

from simulator.trace import Position, TraceRequest

SHARES = (0.28, 0.19, 0.14)


def calibrated(rng: random.Random) -> Position:
    """A first child of any strength, three more of what it leaves, and a hit drawn by these very edges."""
    first = 0.98 * rng.betavariate(2, 1)
    edges, left = [first], 1 - first
    for share in SHARES:
        edges.append(left * share)
        left *= 1 - share
    drawn, total = rng.random(), 0.0
    for rank, edge in enumerate(edges):
        total += edge
        if drawn < total:
            return tuple(edges), rank
    return tuple(edges), -1


def always(rng: random.Random) -> Position:
    return (1.0,), 0


def never(rng: random.Random) -> Position:
    return (0.6, 0.2), -1


def trace(
    requests: int = 20,
    output_tokens: int = 24,
    prompt_tokens: int = 16,
    gap_s: float = 1.0,
    position: Callable[[random.Random], Position] = calibrated,
) -> list[TraceRequest]:
    rng = random.Random(1)
    return [
        TraceRequest(
            workload="code", temperature=0.0, arrival_s=i * gap_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens, latency_s=1.0,
            positions=tuple(position(rng) for _ in range(output_tokens)),
        )
        for i in range(requests)
    ]  # fmt: skip
