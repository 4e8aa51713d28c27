"""What a client may send to /v1/responses.

Promises: unknown fields are refused, and so is a known field that this system does not serve, unless it has a value that asks for
nothing; types are not coerced. No state is kept: what would need it says so. Sampling fields are those of the other generation routes.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deployments.api.openai.grammar_schema import StructuredOutputs
from deployments.api.openai.sampling_schema import Body, SamplingBody, only, shaped
from deployments.api.openai.schema import Priority, SpeculationOptions, Stop, TokenLimit
from deployments.api.openai.tools_schema import FunctionName
from deployments.api.responses.input_items import NO_STATE, Item, is_text, served
from drafthouse.errors import RequestError

LOGPROBS = "message.output_text.logprobs"


class FunctionTool(Body):
    type: Annotated[Literal["function"], served("a tool", "function")]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Body):
    """The tool that is to be called."""

    type: Annotated[Literal["function"], served("the tool to be called", "function")]
    name: FunctionName


class ReasoningOptions(Body):
    """`summary`: none is made; the reasoning stands whole in the answer."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextOptions(Body):
    format: dict[str, Any] | None = None  # the chat request it becomes checks it
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseStreamOptions(Body):
    include_obfuscation: bool | None = None  # padding against traffic analysis; none is sent either way


class ResponsesRequest(SamplingBody):
    model: str
    input: Annotated[str | Annotated[list[Item], Field(min_length=1, fail_fast=True)], shaped("a string or a list of items", is_text)]
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    # Clients ask for encrypted content to send reasoning back to a server that stores nothing: its own content does that here.
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    stop: Stop = None
    structured_outputs: StructuredOutputs | None = None
    speculation: SpeculationOptions | None = None
    priority: Priority | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None  # nothing is stored
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    max_tool_calls: int | None = None  # of tools that a server calls by itself: there are none

    background: Annotated[object, only(False, hint="an answer is there when its request ends")] = None
    previous_response_id: Annotated[object, only(hint=NO_STATE)] = None
    conversation: Annotated[object, only(hint=NO_STATE)] = None
    prompt: Annotated[object, only(hint="no prompts are stored on this server; send instructions and input")] = None
    messages: Annotated[object, only(hint="send input")] = None
    max_tokens: Annotated[object, only(hint="send max_output_tokens")] = None
    max_completion_tokens: Annotated[object, only(hint="send max_output_tokens")] = None
    reasoning_effort: Annotated[object, only(hint="send reasoning: {effort}")] = None
    response_format: Annotated[object, only(hint="send text: {format}")] = None
    n: Annotated[object, only(1, hint="a response is one answer; send several requests")] = None
    context_management: Annotated[object, only([])] = None
    moderation: Annotated[object, only()] = None
    prompt_logprobs: Annotated[int | None, only(hint="/v1/completions and /v1/chat/completions have it")] = None

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise RequestError(f'top_logprobs is only allowed with include: ["{LOGPROBS}"]', "top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed with stream: true", "stream_options")
        return self
