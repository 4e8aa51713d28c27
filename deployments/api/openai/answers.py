"""The form of what /v1/completions and /v1/chat/completions answer, whole and in chunks.

Promises: OpenAI's shapes, with `usage.speculation` as an addition, `metrics` as vLLM has it, `trace` where it is asked for, and `notes`
where there are such; `synthetic`
stands there if and only if acceptance was drawn, so that the text is not the target's.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.api.openai.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprobs
from deployments.api.trace_form import TraceOfStep


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeculationCounts(Answer):
    drafted: int
    verified: int
    accepted: int
    steps: int
    attempts: int  # verifiers tried, by the choice that needed most
    synthetic: bool = Field(False, exclude_if=lambda synthetic: not synthetic)


class PromptTokensDetails(Answer):
    cached_tokens: int


class CompletionTokensDetails(Answer):
    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None  # drafted by the prediction and accepted
    rejected_prediction_tokens: int | None = None  # drafted by it, verified and not accepted
    forced_tokens: int | None = None  # that a grammar left no choice


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None  # where reasoning is told apart, with a prediction or a grammar
    speculation: SpeculationCounts


class Acceptance(Answer):
    """Of one output, over the steps that verified drafts: vLLM's names. `acceptance_histogram[j]`: steps that accepted `j` drafts. A tree
    has no one length, so `num_spec_tokens` is null, and `num_draft_tokens` are its nodes that were verified."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: None = None


class RequestMetrics(Answer):
    speculative_decoding: Acceptance


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    prompt_logprobs: PromptLogprobs | None = None
    trace: list[TraceOfStep] | None = None


class CalledFunction(Answer):
    name: str | None = None
    arguments: str


class ToolCall(Answer):
    """Whole in an answer; in chunks with an `index`, and with id, type and name in the first of each call alone."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class Message(Answer):
    role: Literal["assistant"] = "assistant"
    content: str | None = ""
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Answer):
    index: int
    message: Message = Message()
    delta: Message = Message()
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    trace: list[TraceOfStep] | None = None  # in a chunk of the steps since the one before


class Response(Answer):
    id: str
    object: Literal["text_completion", "chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[CompletionChoice | ChatChoice]
    usage: Usage | None = None
    metrics: RequestMetrics | None = None  # beside the usage, where drafts were verified for an only choice
    notes: list[str] | None = None
    prompt_logprobs: PromptLogprobs | None = None  # of a chat
