"""What verifiers and drafters say to each other, and the network that takes half a round trip for it.

Promises: what is sent at one moment to one peer arrives as one batch; batches to a peer arrive in
the order in which they were sent. A session is known by its tree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import simpy

from benchmarks.simulator.draft_tree import DraftTree

if TYPE_CHECKING:
    from benchmarks.simulator.verifier import SimVerifier


@dataclass(slots=True)
class Open:
    tree: DraftTree
    verifier: "SimVerifier"
    tokens: int  # prompt and committed
    root: int  # output position of the last of them, -1 for the prompt's
    max_nodes: int
    max_depth: int
    width: int
    price: float


@dataclass(slots=True)
class Commit:
    tree: DraftTree
    root: int
    price: float


@dataclass(slots=True)
class Close:
    tree: DraftTree


@dataclass(slots=True)
class Grow:
    """`known`: nodes drafted in the session so far; `first`: the snapshot that answers a commit."""

    tree: DraftTree
    root: int
    known: int
    first: bool
    eta_s: float
    expected_tokens: float


@dataclass(slots=True)
class Refused:
    tree: DraftTree


ToDrafter = Open | Commit | Close
ToVerifier = Grow | Refused


def after(env: simpy.Environment, seconds: float, action: Callable[[], None]) -> None:
    """Calls `action` in `seconds`."""
    event: Any = env.timeout(seconds)
    event.callbacks.append(lambda _: action())
