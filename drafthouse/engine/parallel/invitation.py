"""How the ranks of one tensor-parallel replica find each other, and who starts them.

Promises: rank 0 is the process that schedules; every other rank is started by a launcher with an
invitation, calls rank 0 back, and learns the rest from it. All ranks are on one machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from drafthouse.config.serving import ModelConfig


@dataclass(frozen=True, slots=True)
class Invitation:
    """To rank `rank`: call rank 0 on this port of the loopback, with this key. `device` is its GPU's index among those it sees."""

    rank: int
    port: int
    key: bytes = field(repr=False)
    device: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """A follower's first message."""

    rank: int
    pid: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """Rank 0's first message: what to load, and the port of the store by which the process group meets."""

    config: ModelConfig
    store_port: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A follower's last message, with the error that ends it."""

    reason: str


class Launcher(Protocol):
    """Starts the other ranks of one replica."""

    def start(self, config: ModelConfig, invitations: Sequence[Invitation]) -> None:
        """Begins to start a process for each; raises ConfigError where there are too few devices."""

    def failure(self) -> str:
        """Why a rank has ended or cannot be started, as far as is known now; empty if nothing is amiss."""
