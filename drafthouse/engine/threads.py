"""The threads that run a model on CPUs: how they wait for each other, and how much more work they do than one.

Promises: the environment alone decides how torch's threads wait, since OpenMP reads it when its library is loaded; what starts the
process sets it (`deployments/placement.py`). The native decoder has threads of its own: in either case they wait awake for 0.3 ms, and then
sleep.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

SIDE, PRODUCTS = 384, 4
"""A product of two such matrices takes one core about a millisecond; the best of so many counts."""


def awake(environment: Mapping[str, str]) -> bool:
    """Whether idle threads look for work for a while before they sleep."""
    if (spins := environment.get("GOMP_SPINCOUNT")) is not None:
        return spins != "0"
    return environment.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"


@dataclass(frozen=True, slots=True)
class Threads:
    """`speed_up`: the work that they do together, to that of one."""

    count: int
    speed_up: float
    awake: bool

    def __str__(self) -> str:
        if self.count == 1:
            return "1 thread"
        waiting = "stay awake for a while" if self.awake else "sleep at once"
        return f"{self.count} threads do {self.speed_up:.2f} times the work of one; idle ones {waiting}"


def measure(count: int) -> Threads:
    """Takes some milliseconds. torch has `count` threads afterwards."""
    speed_up = _seconds(1) / _seconds(count) if count > 1 else 1.0
    torch.set_num_threads(count)
    return Threads(count, speed_up, awake(os.environ))


def _seconds(count: int) -> float:
    torch.set_num_threads(count)
    a, best = torch.ones(SIDE, SIDE), float("inf")
    for _ in range(1 + PRODUCTS):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return best
