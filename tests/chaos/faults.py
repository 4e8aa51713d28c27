"""Which faults happen in which order.

Promises: pure; equal seeds give equal plans. The first faults are one of each kind, so are those after them, and so on.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drafthouse.errors import ConfigError

Way = Literal["kill", "stop", "cut", "freeze"]
Kind = tuple[Way, str]
"""What is done, and to which role."""

KINDS: tuple[Kind, ...] = tuple((way, role) for way in ("kill", "stop") for role in ("verifier", "drafter", "controller"))  # type: ignore[misc]
CUTS: tuple[Kind, ...] = (("cut", "verifier"), ("cut", "drafter"))
"""Beside KINDS where they can be made (`benchmarks.harness.nftables`). The controller has no data plane."""

FREEZES: tuple[Kind, ...] = (("freeze", "verifier"), ("freeze", "drafter"))
"""Likewise (`tests.chaos.freezes`). The controller has no device."""

PAUSE_S = (1.0, 4.0)
"""Between what a fault needs being there and the fault."""

STOPPED_S = (1.0, 5.0)
"""From when the others have given a stopped process up to when it wakes, a cut heals or a device thaws: its work is then another's."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`draw` in [0, 1) picks the victim among the role's processes; one that was stopped or cut off, or whose device was frozen, goes on
    `stopped_s` after it was noticed."""

    way: Way
    role: str
    pause_s: float
    stopped_s: float
    draw: float

    @property
    def kind(self) -> str:
        return f"{self.way}-{self.role}"


def plan(count: int, seed: int, kinds: Sequence[Kind] = KINDS) -> list[Fault]:
    """Raises ConfigError naming --faults when not every kind can occur."""
    if count < len(kinds):
        raise ConfigError(f"--faults {count}: at least {len(kinds)}, one of each kind: {', '.join('-'.join(kind) for kind in kinds)}")
    rng = random.Random(seed)
    drawn: list[Kind] = []
    while len(drawn) < count:
        drawn += rng.sample(kinds, len(kinds))
    return [Fault(way, role, rng.uniform(*PAUSE_S), rng.uniform(*STOPPED_S), rng.random()) for way, role in drawn[:count]]
