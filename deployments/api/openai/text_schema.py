"""What a client may send to /tokenize and /detokenize, and what comes back: vLLM's fields.

Promises: those of `schema`.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.api.openai.chat_schema import ChatMessage
from deployments.api.openai.sampling_schema import Body
from drafthouse.errors import RequestError


class TokenizeRequest(Body):
    """A prompt or messages. `add_special_tokens` is for prompts: a chat template writes its own."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("send either prompt or messages", "prompt")
        return self


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[int]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tokens(_Answer):
    count: int
    max_model_len: int  # tokens, prompt and output together
    tokens: list[int]
    token_strs: list[str] | None


class Text(_Answer):
    prompt: str
