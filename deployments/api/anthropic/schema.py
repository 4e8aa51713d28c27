"""What a client may send to /v1/messages and /v1/messages/count_tokens: Anthropic's Messages, of text and tools.

Promises: those of `deployments.api.openai.schema`. Images, documents and what only Anthropic's own servers can do is refused by its name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deployments.api.openai.sampling_schema import Body, only, shaped
from deployments.api.openai.schema import MAX_STOPS, Priority, SpeculationOptions, is_stop, whole
from deployments.api.openai.tools_schema import CacheControl, FunctionName
from drafthouse.errors import RequestError

BLOCKS_BY_ROLE = {"user": ("text", "tool_result"), "assistant": ("text", "thinking", "tool_use"), "system": ("text",)}


class TextParam(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[object, only([])] = None


class ThinkingParam(Body):
    """What the assistant thought, as it was answered; `signature` is not needed here."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseParam(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Annotated[object, only({"type": "direct"})] = None
    toolset_name: Annotated[object, only()] = None


def readable(value: Any) -> Any:
    """One message for a block of a kind that this server does not read, instead of one for each kind that it does."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in {"text", "thinking", "tool_use", "tool_result"}:
        said = "blocks of type {kind} are not supported, but text, thinking, tool_use and tool_result"
        raise PydanticCustomError("unsupported", said, {"kind": kind[:40]})
    return value


def is_content(value: Any) -> bool:
    return isinstance(value, str | list)


ReadableText = Annotated[TextParam, BeforeValidator(readable)]
SHAPE = shaped("a string or a list of blocks", is_content)
TextContent = Annotated[str | Annotated[list[ReadableText], Field(fail_fast=True)], SHAPE]


class ToolResultParam(Body):
    """`is_error` changes nothing: the content says what went wrong."""

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: TextContent = ""
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Annotated[object, only()] = None


BlockParam = TextParam | ThinkingParam | ToolUseParam | ToolResultParam
Block = Annotated[Annotated[BlockParam, Field(discriminator="type")], BeforeValidator(readable)]


class MessageParam(Body):
    role: Literal["user", "assistant", "system"]
    content: Annotated[str | Annotated[list[Block], Field(fail_fast=True)], SHAPE]

    def blocks(self) -> list[BlockParam]:
        return [TextParam(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class ToolParam(Body):
    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None
    input_examples: list[dict[str, Any]] | None = None  # not needed: templates have no place for them
    eager_input_streaming: bool | None = None  # input comes when it is whole either way
    defer_loading: Annotated[object, only(False)] = None
    allowed_callers: Annotated[object, only(["direct"])] = None


class ToolChoiceParam(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _a_tool_has_its_name(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise RequestError("tool_choice.name: belongs to type tool, which needs it", "tool_choice.name")
        return self


class ThinkingOptions(Body):
    """`adaptive`: the model decides how much."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    display: Literal["summarized", "omitted"] | None = None  # summarized: the whole of it

    @model_validator(mode="after")
    def _a_budget_is_for_thinking(self) -> Self:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise RequestError("thinking.budget_tokens: belongs to type enabled, which needs it", "thinking.budget_tokens")
        return self


class JsonFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class UserMetadata(Body):
    user_id: str | None = None


class KeptThinking(Body):
    """That all of the thinking stays in the prompt, as it does here."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(Body):
    """Nothing of a prompt is left out here, so what asks for nothing passes."""

    edits: list[KeptThinking] | None = None


class PromptBody(Body):
    """What the prompt is made of, and what is said of the answer beside its length."""

    model: str
    messages: Annotated[list[MessageParam], Field(min_length=1, fail_fast=True)]
    system: TextContent | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    container: Annotated[object, only()] = None
    context_management: ContextManagement | None = None
    mcp_servers: Annotated[object, only([])] = None

    @model_validator(mode="after")
    def _each_role_has_its_blocks(self) -> Self:
        for i, message in enumerate(self.messages):
            for j, block in enumerate(message.blocks()):
                if block.type not in BLOCKS_BY_ROLE[message.role]:
                    path = f"messages.{i}.content.{j}"
                    raise RequestError(f"{path}: a message of role {message.role} has no {block.type} blocks", path)
        return self


class CountTokensRequest(PromptBody):
    pass


class MessagesRequest(PromptBody):
    max_tokens: Annotated[int, Field(ge=1), BeforeValidator(whole)]
    stop_sequences: Annotated[list[str], shaped(f"a list of at most {MAX_STOPS} strings", is_stop)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: UserMetadata | None = None
    service_tier: str | None = None
    speculation: SpeculationOptions | None = None  # as in chats
    priority: Priority | None = None
