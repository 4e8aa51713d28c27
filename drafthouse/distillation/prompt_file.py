"""A user's own prompts: JSON lines, each `{"prompt": text}` or `{"messages": [{"role": ..., "content": ...}, ...]}`.

Promises: what is wrong with a line is a ConfigError that names file, line and field.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drafthouse.distillation.prompt_encoder import PromptEncoder
from drafthouse.distillation.prompts import Message
from drafthouse.errors import ConfigError, RequestError


class PromptMessage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class PromptLine(BaseModel):
    """One line: a text, or a conversation that ends with a user's message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | None = Field(None, min_length=1)
    messages: tuple[PromptMessage, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> "PromptLine":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError('a line has either "prompt" or "messages"')
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's: the target writes what follows it")
        return self

    @property
    def conversation(self) -> tuple[PromptMessage, ...]:
        """The messages; a prompt is a user's message."""
        return self.messages or (PromptMessage(role="user", content=self.prompt or ""),)


def read_prompts(path: pathlib.Path) -> list[tuple[int, PromptLine]]:
    """All lines that are not empty, with their numbers in the file. Raises ConfigError, also where there are none."""
    found = []
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    found.append((number, _parsed(raw, f"--prompts {path}, line {number}")))
    except OSError as error:
        raise ConfigError(f"--prompts {path}: {error.strerror or error}") from error
    if not found:
        raise ConfigError(f'--prompts {path}: it holds no prompts; write one JSON object a line, such as {{"prompt": "Explain tides."}}')
    return found


def _parsed(raw: bytes, place: str) -> PromptLine:
    try:
        line = json.loads(raw)
    except ValueError as error:  # also what is no UTF-8
        raise ConfigError(f"{place}: it is no JSON ({error})") from None
    if not isinstance(line, dict):
        raise ConfigError(f'{place}: it must be an object with "prompt" or "messages"')
    try:
        return PromptLine.model_validate(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{place}: {field + ': ' if field else ''}{first['msg'].removeprefix('Value error, ')}") from None


def fitting(path: pathlib.Path, lines: Sequence[tuple[int, PromptLine]], encoder: PromptEncoder, most: int) -> list[tuple[Message, ...]]:
    """The conversations of at most `most` tokens. Raises ConfigError for a line that the target's chat template refuses, and where no
    line is short enough."""
    found = []
    for number, line in lines:
        place = f"--prompts {path}, line {number}"
        if line.messages is not None and not encoder.chat:
            raise ConfigError(f'{place}: messages: the target has no chat template; write {{"prompt": "..."}}, which it goes on with')
        messages = tuple(message.model_dump() for message in line.conversation)
        try:
            tokens = encoder.conversation(messages) if encoder.chat else encoder.beginning(messages[-1]["content"])
        except RequestError as error:
            raise ConfigError(f"{place}: {'messages' if line.messages is not None else 'prompt'}: {error}") from error
        if len(tokens) <= most:
            found.append(messages)
    if not found:
        raise ConfigError(f"--prompts {path}: none of its {len(lines)} prompts can be used: each has more than {most} tokens; shorten them")
    return found
