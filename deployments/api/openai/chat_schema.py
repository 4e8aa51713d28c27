"""What a client may send to /v1/chat/completions: messages, and what only chats have.

Promises: those of `schema`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deployments.api.openai.sampling_schema import Body, only, shaped
from deployments.api.openai.schema import GenerationBody, TokenLimit
from deployments.api.openai.tools_schema import CacheControl, Call, NamedTool, Tool
from deployments.gateway.control_tokens import strings_of
from drafthouse.errors import RequestError
from drafthouse.token_logprobs import RAW, LogprobsWish


class TextPart(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None

    def plain(self) -> dict[str, str]:
        return {"type": "text", "text": self.text}


def is_content(value: Any) -> bool:
    return value is None or isinstance(value, str | list)


class Prediction(Body):
    """Text that the client expects: it is drafted where the output agrees with it, and changes nothing else."""

    type: Literal["content"]
    content: Annotated[str | Annotated[list[TextPart], Field(fail_fast=True)], shaped("a string or a list of text parts", is_content)]

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        str | Annotated[list[TextPart], Field(fail_fast=True)] | None, shaped("a string or a list of text parts", is_content)
    ] = None
    name: str | None = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None  # what the assistant thought: templates may leave it out
    cache_control: CacheControl | None = None

    refusal: Annotated[object, only()] = None
    function_call: Annotated[object, only()] = None
    annotations: Annotated[object, only([])] = None
    audio: Annotated[object, only()] = None

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])

    def chars(self) -> int:
        """Of its texts and its name."""
        called = sum(len(call.function.name) + len(call.function.arguments) for call in self.tool_calls or [])
        return len(self.text()) + len(self.name or "") + len(self.reasoning_content or "") + called

    def plain(self) -> dict[str, Any]:
        """As chat templates know messages: only with the keys that there are, and without the role developer, which is OpenAI's
        newer name for system. The content keeps its form; no content is an empty one."""
        content = [part.plain() for part in self.content] if isinstance(self.content, list) else self.content or ""
        role = "system" if self.role == "developer" else self.role
        given = {"name": self.name, "tool_call_id": self.tool_call_id, "reasoning_content": self.reasoning_content or None}
        calls = {"tool_calls": [call.plain() for call in self.tool_calls]} if self.tool_calls else {}
        return {"role": role, "content": content} | {key: value for key, value in given.items() if value is not None} | calls


class ChatRequest(GenerationBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: TokenLimit | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None  # vLLM's name
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: Prediction | None = None
    store: bool | None = None  # nothing is stored
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    logprobs: bool | None = None
    top_logprobs: int | None = None
    functions: Annotated[object, only([])] = None
    function_call: Annotated[object, only("none", "auto")] = None
    modalities: Annotated[object, only(["text"])] = None
    audio: Annotated[object, only()] = None
    web_search_options: Annotated[object, only()] = None

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        self._check_messages()
        self._check_tools()
        return self

    def _check_messages(self) -> None:
        for i, message in enumerate(self.messages):
            if message.tool_calls and message.role != "assistant":
                raise RequestError(f"messages.{i}.tool_calls: only messages of the assistant have calls", f"messages.{i}.tool_calls")
            if message.role == "tool" and not message.tool_call_id:
                raise RequestError(f"messages.{i}.tool_call_id: missing; say which call this answers", f"messages.{i}.tool_call_id")
        last = self.messages[-1]
        if not self.continue_final_message:
            return
        if self.add_generation_prompt:
            raise RequestError("continue_final_message and add_generation_prompt exclude each other; send one", "continue_final_message")
        if last.role != "assistant" or not last.text() or last.tool_calls:
            raise RequestError("continue_final_message: the last message must be text of the assistant", "continue_final_message")

    def _check_tools(self) -> None:
        names: set[str] = set()
        for i, tool in enumerate(self.tools or []):
            name = tool.function.name
            if name in names:
                raise RequestError(f"tools.{i}.function.name: {name!r} is there twice", f"tools.{i}.function.name")
            names.add(name)
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise RequestError("tool_choice.function.name: no tool of this request has the name", "tool_choice.function.name")
        if self.tool_choice == "required" and not names:
            raise RequestError("tool_choice: required needs tools", "tool_choice")

    @property
    def offered_tools(self) -> list[Tool]:
        """That the model may call. What it may not call, it is not shown."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def required_tools(self) -> list[Tool]:
        """One of which must be called."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.offered_tools if tool.function.name == self.tool_choice.function.name]
        return self.offered_tools if self.tool_choice == "required" else []

    @property
    def one_call(self) -> bool:
        """No more than one call may be made."""
        return self.parallel_tool_calls is False or isinstance(self.tool_choice, NamedTool)

    def tool_chars(self) -> int:
        """Of the strings that the template gets with tools."""
        return sum(map(len, strings_of([tool.plain() for tool in self.offered_tools], free=True)))

    def logprobs_wish(self) -> LogprobsWish:
        """Raises RequestError naming the field out of range."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs is only allowed with logprobs: true", "top_logprobs")
        top = self.top_logprobs or 0 if self.logprobs else None
        return self.checked_wish(LogprobsWish(top, self.prompt_logprobs, self.logprobs_mode or RAW), "top_logprobs")

    @property
    def token_limit(self) -> int | None:
        """max_completion_tokens is OpenAI's newer name of max_tokens. Raises RequestError when both differ."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise RequestError("max_tokens and max_completion_tokens differ; send one", "max_completion_tokens")
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
