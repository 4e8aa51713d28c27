"""What a parser makes of a model's text: content, reasoning, and calls of tools.

Promises: joined over any split of a text into pieces, the parts are those of the whole text.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CallDelta:
    """Of the call `index`. The first delta of a call has its name; the arguments, as JSON text, come in pieces. `before`: characters
    of the content beside it that stand before it."""

    index: int
    name: str = ""
    arguments: str = ""
    before: int = 0


@dataclass(frozen=True, slots=True)
class Parsed:
    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()

    def __add__(self, other: "Parsed") -> "Parsed":
        calls = other.calls
        if self.content and calls:
            calls = tuple(replace(call, before=call.before + len(self.content)) for call in calls)
        return Parsed(self.content + other.content, self.reasoning + other.reasoning, self.calls + calls)


class ToolParser(ABC):
    """Finds calls in one text. `names`: the tools that there are; `complete`: the calls that have ended.

    What looks like a call and is none is content, to the letter. A call that has begun stays one: where its arguments are
    no JSON, or cut off, the client gets what the model wrote.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.complete = 0

    @property
    def in_call(self) -> bool:
        """Whether what comes next is certainly part of a call, or its end. A parser may leave it open."""
        return False

    @abstractmethod
    def feed(self, text: str) -> Parsed:
        """What is certain now that `text` follows."""

    @abstractmethod
    def flush(self) -> Parsed:
        """What was held back, now that no more text comes."""


def join_calls(deltas: tuple[CallDelta, ...]) -> list[CallDelta]:
    """Each call whole, in the order in which they began."""
    parts: dict[int, list[CallDelta]] = {}
    for delta in deltas:
        parts.setdefault(delta.index, []).append(delta)
    return [
        CallDelta(index, "".join(part.name for part in of_call), "".join(part.arguments for part in of_call))
        for index, of_call in parts.items()
    ]
