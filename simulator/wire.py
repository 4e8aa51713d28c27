"""The network between verifiers and drafters, and what it carries: the messages of the data plane, with a shared tree for nodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import simpy

from drafthouse.wire.session_messages import Close, Commit, Hold, Open
from simulator.draft_tree import DraftTree


@dataclass(frozen=True, slots=True)
class Opening:
    """A new session and the tree that both its ends will look at; `prompt_tokens` of the message's tokens are no output."""

    message: Open
    tree: DraftTree
    prompt_tokens: int


ToDrafter = Opening | Commit | Close | Hold


def after(env: simpy.Environment, seconds: float, action: Callable[[], None]) -> None:
    """Calls `action` in `seconds`. What is sent first over equal distances arrives first."""
    event: Any = env.timeout(seconds)
    event.callbacks.append(lambda _: action())
