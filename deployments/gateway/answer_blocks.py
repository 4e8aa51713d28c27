"""A chat's answer as blocks: what the model thought, said and called, in the order in which it wrote them.

Promises: joined over any split of an output into deltas, the blocks are those of the whole output. A block ends before the next one
begins, and the last one with the answer. No block is empty but a call without arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from deployments.gateway.text_stream import TextDelta
from deployments.parsers.parsed import CallDelta

Kind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Block:
    """`index` counts the answer's blocks; `call` its calls. What a call holds is its arguments, as JSON text."""

    index: int
    kind: Kind
    call: int | None = None
    name: str = ""
    call_id: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """As far as it has come."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Begun:
    block: Block


@dataclass(frozen=True, slots=True)
class Grown:
    block: Block
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    block: Block


BlockEvent = Begun | Grown | Ended


class AnswerBlocks:
    """Of one output. `blocks`: all that have begun. The last one may be cut off (`cut_off`)."""

    def __init__(self, call_id: Callable[[int], str]) -> None:
        """`call_id` names the calls, by their index."""
        self._call_id = call_id
        self._open: Block | None = None
        self.blocks: list[Block] = []

    def add(self, delta: TextDelta) -> list[BlockEvent]:
        """What the next delta does; a block grows once by what has come together."""
        events = self._said("reasoning", delta.reasoning)
        at = 0
        for call in delta.calls:
            events += self._said("text", delta.text[at : call.before])
            events += self._called(call)
            at = call.before
        events += self._said("text", delta.text[at:])
        return joined(events) + (self._end() if delta.finish_reason else [])

    def _said(self, kind: Kind, text: str) -> list[BlockEvent]:
        if not text:
            return []
        begun = [] if self._open is not None and self._open.kind == kind else self._begin(Block(len(self.blocks), kind))
        return begun + self._grow(text)

    def _called(self, call: CallDelta) -> list[BlockEvent]:
        events: list[BlockEvent] = []
        if self._open is None or self._open.call != call.index:
            events = self._begin(Block(len(self.blocks), "call", call.index, call.name, self._call_id(call.index)))
        return events + (self._grow(call.arguments) if call.arguments else [])

    def _begin(self, block: Block) -> list[BlockEvent]:
        events = self._end()
        self._open = block
        self.blocks.append(block)
        return [*events, Begun(block)]

    def _grow(self, text: str) -> list[BlockEvent]:
        assert self._open is not None
        self._open.pieces.append(text)
        return [Grown(self._open, text)]

    def _end(self) -> list[BlockEvent]:
        ended, self._open = self._open, None
        return [] if ended is None else [Ended(ended)]


def cut_off(block: Block, finish_reason: str) -> bool:
    """Whether an answer's last block may lack its end. A call that ends otherwise than by `tool_calls` does: see `TextDelta`."""
    return finish_reason in ("", "length") or (block.kind == "call" and finish_reason == "stop")


def joined(events: Sequence[BlockEvent]) -> list[BlockEvent]:
    """Growth of one block that comes together is one event."""
    found: list[BlockEvent] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Grown) and isinstance(last, Grown) and last.block is event.block:
            found[-1] = Grown(event.block, last.text + event.text)
        else:
            found.append(event)
    return found
