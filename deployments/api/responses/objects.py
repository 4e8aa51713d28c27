"""The form of what /v1/responses answers: a response, and the items of its output.

Promises: OpenAI's shapes, with `usage.speculation` and `usage.output_tokens_details.forced_tokens` as additions, `metrics` as vLLM has it,
and `notes` where there are such. What a response says of the request is what the client sent; `temperature` and `top_p` are those that
hold.
"""

from typing import Any, Literal

from pydantic import Field

from deployments.api.openai.answers import Answer, CompletionTokensDetails, RequestMetrics, SpeculationCounts, Usage
from deployments.api.openai.logprobs import ContentLogprob
from deployments.api.responses.input_items import Status

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


class ReasoningText(Answer):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputText(Answer):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field([], max_length=0)
    logprobs: list[ContentLogprob] = []


class OutputReasoning(Answer):
    """What the model thought, as it stands. There are no summaries."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    status: Status
    summary: list[Any] = Field([], max_length=0)
    content: list[ReasoningText]


class OutputMessage(Answer):
    type: Literal["message"] = "message"
    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(Answer):
    type: Literal["function_call"] = "function_call"
    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = OutputReasoning | OutputMessage | OutputCall
Part = ReasoningText | OutputText


class ResponseInputDetails(Answer):
    cached_tokens: int
    cache_write_tokens: Literal[0] = 0  # the form wants it; no one pays for it here


class ResponseOutputDetails(Answer):
    reasoning_tokens: int
    forced_tokens: int | None = Field(None, exclude_if=lambda count: count is None)  # that a grammar left no choice


class ResponseUsage(Answer):
    input_tokens: int
    input_tokens_details: ResponseInputDetails
    output_tokens: int
    output_tokens_details: ResponseOutputDetails
    total_tokens: int
    speculation: SpeculationCounts

    @classmethod
    def of(cls, usage: Usage) -> "ResponseUsage":
        details = usage.completion_tokens_details or CompletionTokensDetails()
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=ResponseInputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=ResponseOutputDetails(
                reasoning_tokens=details.reasoning_tokens or 0, forced_tokens=details.forced_tokens
            ),
            total_tokens=usage.total_tokens,
            speculation=usage.speculation,
        )


class ResponseFault(Answer):
    code: ErrorCode
    message: str


class IncompleteDetails(Answer):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ToolSaid(Answer):
    """A tool as the client sent it."""

    type: Literal["function"] = "function"
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class ToolNamed(Answer):
    type: Literal["function"] = "function"
    name: str


class ReasoningSaid(Answer):
    effort: str | None = None
    summary: None = None


class TextSaid(Answer):
    format: dict[str, Any]
    verbosity: str | None = None


class ResponseObject(Answer):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    model: str
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    parallel_tool_calls: bool
    reasoning: ReasoningSaid
    temperature: float
    text: TextSaid
    tool_choice: Literal["none", "auto", "required"] | ToolNamed
    tools: list[ToolSaid]
    top_logprobs: int
    top_p: float
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    background: Literal[False] = False
    store: Literal[False] = False
    truncation: Literal["auto", "disabled"]
    previous_response_id: None = None
    metrics: RequestMetrics | None = Field(None, exclude_if=lambda metrics: metrics is None)
    notes: list[str] | None = Field(None, exclude_if=lambda notes: notes is None)
