"""The form of what /v1/messages answers, whole and in events, and of /v1/messages/count_tokens.

Promises: Anthropic's shapes, with `usage.speculation` as an addition, as in OpenAI's answers here.
"""

from typing import Any, Literal

from deployments.api.openai.answers import Answer, SpeculationCounts

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlock(Answer):
    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(Answer):
    """`signature` is empty: nothing here checks one."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class ToolUseBlock(Answer):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


class OutputTokensDetails(Answer):
    thinking_tokens: int


class MessageUsage(Answer):
    """The prompt has `input_tokens` and `cache_read_input_tokens`, those whose KV was in the prefix cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails | None = None
    speculation: SpeculationCounts


class Message(Answer):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(Answer):
    input_tokens: int
