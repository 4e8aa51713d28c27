"""Which faults happen in which order.

Promises: pure; equal seeds give equal plans. The first six are one of each kind, so are the next six, and so on.
"""

import random
from dataclasses import dataclass
from typing import Literal, get_args

from drafthouse.errors import ConfigError

ROLES = ("verifier", "drafter", "controller")
Signal = Literal["kill", "stop"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
KINDS = len(ROLES) * len(SIGNALS)

PAUSE_S = (1.0, 4.0)
"""Between what a fault needs being there and the fault."""

STOPPED_S = (1.0, 5.0)
"""From when the others have given a stopped process up to when it wakes: its work is then another's."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`draw` in [0, 1) picks the victim among the role's processes; a stopped one goes on `stopped_s` after it was noticed."""

    signal: Signal
    role: str
    pause_s: float
    stopped_s: float
    draw: float

    @property
    def kind(self) -> str:
        return f"{self.signal}-{self.role}"


def plan(count: int, seed: int) -> list[Fault]:
    """Raises ConfigError naming --faults when not every kind can occur."""
    if count < KINDS:
        raise ConfigError(f"--faults {count}: at least {KINDS}, one of each kind: killed and stopped {', '.join(ROLES)}")
    rng = random.Random(seed)
    kinds: list[tuple[Signal, str]] = []
    while len(kinds) < count:
        kinds += rng.sample([(signal, role) for signal in SIGNALS for role in ROLES], KINDS)
    return [Fault(signal, role, rng.uniform(*PAUSE_S), rng.uniform(*STOPPED_S), rng.random()) for signal, role in kinds[:count]]
