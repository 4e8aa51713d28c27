"""What a client may send to /v1/chat/completions: messages, and what only chats have.

Promises: those of `schema`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.api.openai.schema import Body, GenerationBody, only, shaped
from drafthouse.errors import RequestError


class TextPart(Body):
    type: Literal["text"]
    text: str


TextParts = Annotated[list[TextPart], Field(fail_fast=True)]


def is_content(value: Any) -> bool:
    return value is None or isinstance(value, str | list)


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str | Annotated[list[TextPart], Field(fail_fast=True)] | None, shaped("a string or a list of text parts", is_content)
    ] = None
    name: str | None = None

    refusal: Annotated[object, only()] = None
    tool_calls: Annotated[object, only([])] = None
    function_call: Annotated[object, only()] = None
    annotations: Annotated[object, only([])] = None
    audio: Annotated[object, only()] = None

    def chars(self) -> int:
        """Of its text and its name."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])
        return len(text) + len(self.name or "")

    def plain(self) -> dict[str, Any]:
        """As chat templates know messages: with a name only where there is one, and without the role developer, which is OpenAI's
        newer name for system. The content keeps its form; no content is an empty one."""
        content = [part.model_dump() for part in self.content] if isinstance(self.content, list) else self.content or ""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content} | ({} if self.name is None else {"name": self.name})


class ChatRequest(GenerationBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    parallel_tool_calls: bool | None = None  # says nothing where there are no tools
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    logprobs: Annotated[object, only(False)] = None
    top_logprobs: Annotated[object, only(0)] = None
    tools: Annotated[object, only([])] = None
    tool_choice: Annotated[object, only("none", "auto")] = None
    functions: Annotated[object, only([])] = None
    function_call: Annotated[object, only("none", "auto")] = None
    response_format: Annotated[object, only({"type": "text"})] = None
    modalities: Annotated[object, only(["text"])] = None
    audio: Annotated[object, only()] = None
    prediction: Annotated[object, only()] = None
    reasoning_effort: Annotated[object, only("none")] = None
    verbosity: Annotated[object, only("medium")] = None
    web_search_options: Annotated[object, only()] = None
    store: Annotated[object, only(False)] = None

    @property
    def token_limit(self) -> int | None:
        """max_completion_tokens is OpenAI's newer name of max_tokens. Raises RequestError when both differ."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise RequestError("max_tokens and max_completion_tokens differ; send one", "max_completion_tokens")
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
