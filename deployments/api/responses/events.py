"""The events of a streamed response, by OpenAI's names.

Promises: each has its type on the line `event:` and in its data, and is one line to every reader (ASCII).
"""

from typing import Any, Literal

from deployments.api.openai.answers import Answer
from deployments.api.openai.logprobs import ContentLogprob
from deployments.api.responses.objects import OutputItem, Part, ResponseObject


class _Event(Answer):
    type: str
    sequence_number: int  # counts the events of a stream from 0


class ResponseBegun(_Event):
    type: Literal["response.created", "response.in_progress"]
    response: ResponseObject


class ResponseEnded(_Event):
    type: Literal["response.completed", "response.incomplete", "response.failed"]
    response: ResponseObject


class _OfItem(_Event):
    output_index: int


class ItemChanged(_OfItem):
    type: Literal["response.output_item.added", "response.output_item.done"]
    item: OutputItem


class _OfItemById(_OfItem):
    item_id: str


class _OfPart(_OfItemById):
    content_index: Literal[0] = 0  # each item has one part


class PartChanged(_OfPart):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Part


class TextGrown(_OfPart):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[ContentLogprob]


class TextDone(_OfPart):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[ContentLogprob]


class ReasoningGrown(_OfPart):
    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    delta: str


class ReasoningDone(_OfPart):
    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    text: str


class ArgumentsGrown(_OfItemById):
    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(_OfItemById):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


EVENT_KINDS = (
    ResponseBegun, ResponseEnded, ItemChanged, PartChanged, TextGrown, TextDone, ReasoningGrown, ReasoningDone, ArgumentsGrown,
    ArgumentsDone,
)  # fmt: skip


class EventLines:
    """Writes one stream's events, and numbers them."""

    def __init__(self) -> None:
        self._next = 0

    def line(self, kind: type[_Event], **fields: Any) -> str:
        event = kind(sequence_number=self._next, **fields)
        self._next += 1
        return f"event: {event.type}\ndata: {event.model_dump_json(ensure_ascii=True)}\n\n"
