"""What /v1/completions and /v1/chat/completions answer, whole and in chunks.

Promises: OpenAI's shapes, with `usage.speculation` as the one addition; `synthetic` stands there if and only if acceptance was
drawn, so that the text is not the target's. A field that is absent from
the JSON is absent here too (`exclude_unset`), so every field sent is named where it is made.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from drafthouse.wire.generation_messages import SpeculationUsage

DONE = "data: [DONE]\n\n"

TEXT = "\0text\0"
"""Stands for the text in the frame of a chunk."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeculationCounts(_Answer):
    drafted: int
    verified: int
    accepted: int
    steps: int
    attempts: int  # verifiers tried, by the choice that needed most
    synthetic: bool = False


class PromptTokensDetails(_Answer):
    cached_tokens: int


class Usage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    speculation: SpeculationCounts


class CompletionChoice(_Answer):
    index: int
    text: str
    logprobs: None
    finish_reason: str | None


class Message(_Answer):
    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChatChoice(_Answer):
    index: int
    message: Message = Message()
    delta: Message = Message()
    logprobs: None
    finish_reason: str | None


class Response(_Answer):
    id: str
    object: Literal["text_completion", "chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[CompletionChoice | ChatChoice]
    usage: Usage | None = None


@dataclass(slots=True)
class UsageCount:
    """Sums over the choices of one request. A prompt counts once, as cached as it was for that one of its `choices` which had least."""

    prompt_tokens: int
    choices: int
    cached_tokens: dict[int, int] = field(default_factory=dict)  # by prompt
    completion_tokens: int = 0
    spent: list[SpeculationUsage] = field(default_factory=list)
    attempts: int = 0

    def add(self, index: int, delta: TextDelta) -> None:
        """`index`: of the choice."""
        self.completion_tokens += len(delta.tokens)
        if delta.finish_reason:
            prompt, cached = index // self.choices, delta.usage.cached_tokens
            self.cached_tokens[prompt] = min(cached, self.cached_tokens.get(prompt, cached))
            self.spent.append(delta.usage)
            self.attempts = max(self.attempts, delta.attempt)

    def usage(self) -> Usage:
        names = ("drafted", "verified", "accepted", "steps")
        sums: dict[str, Any] = {name: sum(getattr(usage, name) for usage in self.spent) for name in names} | {"attempts": self.attempts}
        if any(usage.synthetic for usage in self.spent):
            sums["synthetic"] = True
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(self.cached_tokens.values())),
            speculation=SpeculationCounts(**sums),
        )


class Answerer:
    """Makes the answers to one plan; `chat` picks the shape."""

    def __init__(self, plan: RequestPlan, model: str, chat: bool) -> None:
        self._plan, self._model, self._chat = plan, model, chat
        self._created = int(time.time())
        self._begun: set[int] = set()  # chat choices whose role has been sent
        self._frames: dict[tuple[int, bool], tuple[str, str]] = {}

    def whole(self, texts: Iterable[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """`texts`: (text, finish reason) of each choice."""
        choices = [self._choice(i, text, reason, "message") for i, (text, reason) in enumerate(texts)]
        return self._response("chat.completion", choices, usage=usage)

    def events(self, index: int, delta: TextDelta, usage: dict[str, None]) -> str:
        """The server-sent events of one delta, possibly none. `usage` is {"usage": None} if the client asked for usage."""
        if not delta.finish_reason and (not self._chat or index in self._begun):
            return self._chunk(index, delta.text, usage) if delta.text else ""
        choices: list[CompletionChoice | ChatChoice] = []
        if self._chat and index not in self._begun:
            self._begun.add(index)
            opening = Message(role="assistant", content="")
            choices.append(ChatChoice(index=index, delta=opening, logprobs=None, finish_reason=None))
        if delta.text or (delta.finish_reason and not self._chat):
            reason = None if self._chat else delta.finish_reason or None
            choices.append(self._choice(index, delta.text, reason, "delta"))
        if delta.finish_reason and self._chat:
            choices.append(ChatChoice(index=index, delta=Message(), logprobs=None, finish_reason=delta.finish_reason))
        return "".join(sse(self._response("chat.completion.chunk", [choice], **usage)) for choice in choices)

    def _chunk(self, index: int, text: str, usage: dict[str, None]) -> str:
        """One event in the middle of a choice. Such events differ in their text alone: what stands around it is made once."""
        frame = self._frames.get((index, bool(usage)))
        if frame is None:
            whole = sse(self._response("chat.completion.chunk", [self._choice(index, TEXT, None, "delta")], **usage))
            before, _, after = whole.partition(json.dumps(TEXT))
            frame = self._frames[index, bool(usage)] = (before, after)
        return frame[0] + json.dumps(text) + frame[1]

    def usage_event(self, usage: Usage) -> str:
        """The last event before DONE, for a client that asked for usage: no choices."""
        return sse(self._response("chat.completion.chunk", [], usage=usage))

    def _choice(self, index: int, text: str, reason: str | None, where: str) -> CompletionChoice | ChatChoice:
        if not self._chat:
            return CompletionChoice(index=index, text=text, logprobs=None, finish_reason=reason)
        message = Message(role="assistant", content=text) if where == "message" else Message(content=text)
        return ChatChoice.model_validate({"index": index, where: message, "logprobs": None, "finish_reason": reason})

    def _response(self, kind: str, choices: list[CompletionChoice | ChatChoice], **usage: Usage | None) -> dict[str, Any]:
        response = Response.model_validate(
            {
                "id": self._plan.id,
                "object": kind if self._chat else "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": choices,
                **usage,
            }
        )
        return response.model_dump(exclude_unset=True)


def sse(body: dict[str, Any]) -> str:
    """In ASCII: clients that read lines may take U+0085, U+2028 and U+2029 for the ends of some, as httpx does."""
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
