"""What the input of /v1/responses may hold: messages, calls, their results, and what was thought.

Promises: those of `schema`. Items that an answer had may be sent back as they came.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from deployments.api.openai.sampling_schema import Body, only, shaped

Status = Literal["in_progress", "completed", "incomplete"]

KINDS = ("message", "function_call", "function_call_output", "reasoning")
NO_STATE = "nothing is stored on this server; send the whole conversation in input, with store: false"


def served(what: str, *kinds: str) -> BeforeValidator:
    """For the `type` of a thing of which OpenAI has more kinds than there are here."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in kinds:
            context = {"what": what, "kinds": ", ".join(kinds), "value": value[:100]}
            raise PydanticCustomError("unsupported", "{what} may be of type {kinds}, and not {value}", context)
        return value

    return BeforeValidator(check)


class InputText(Body):
    """`text` is the name that chats have for it. `annotations` and `logprobs` stand in parts that are sent back."""

    type: Annotated[Literal["input_text", "output_text", "text"], served("content", "input_text", "output_text", "text")]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: object = None
    prompt_cache_breakpoint: dict[str, str] | None = None


def is_text(value: Any) -> bool:
    return isinstance(value, str | list)


Text = Annotated[str | Annotated[list[InputText], Field(fail_fast=True)], shaped("a string or a list of text parts", is_text)]


def text_of(text: str | list[InputText]) -> str:
    return text if isinstance(text, str) else "".join(part.text for part in text)


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class CallItem(Body):
    """A call that the model has made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class CallOutputItem(Body):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: Text
    name: str | None = None
    id: str | None = None
    status: Status | None = None


class ThoughtPart(Body):
    type: Annotated[Literal["reasoning_text", "summary_text"], served("reasoning", "reasoning_text", "summary_text")]
    text: str


class ReasoningItem(Body):
    """What the model has thought; a summary counts where there is nothing else."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ThoughtPart] | None = None
    content: list[ThoughtPart] | None = None
    status: Status | None = None
    encrypted_content: Annotated[object, only("", hint="this server has no key to it; send the reasoning's content")] = None

    def text(self) -> str:
        return "\n".join(part.text for part in self.content or self.summary or [])


def kind_of(item: Any) -> str | None:
    """A message needs no type."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        kind_of,
        custom_error_type="unsupported",
        custom_error_message=f"an item must be of type {', '.join(KINDS)}; items are not found by their ids, since {NO_STATE}",
    ),
]
