"""What /v1/completions and /v1/chat/completions answer, made from a plan and its deltas.

Promises: a field that is absent from the JSON is absent here too (`exclude_unset`), so every field sent is named where it is made.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from deployments.api.openai.answers import (
    CalledFunction,
    ChatChoice,
    CompletionChoice,
    CompletionTokensDetails,
    Message,
    PromptTokensDetails,
    Response,
    SpeculationCounts,
    ToolCall,
    Usage,
)
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from deployments.parsers.parsed import CallDelta, join_calls
from drafthouse.wire.generation_messages import SpeculationUsage

DONE = "data: [DONE]\n\n"

TEXT = "\0text\0"
"""Stands for the text in the frame of a chunk."""


@dataclass(slots=True)
class Output:
    """One choice as it has come so far."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallDelta] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, delta: TextDelta) -> None:
        self.text.append(delta.text)
        self.reasoning.append(delta.reasoning)
        self.calls += delta.calls
        self.finish_reason = delta.finish_reason


@dataclass(slots=True)
class UsageCount:
    """Sums over the choices of one request. A prompt counts once, as cached as it was for that one of its `choices` which had least."""

    prompt_tokens: int
    choices: int
    cached_tokens: dict[int, int] = field(default_factory=dict)  # by prompt
    completion_tokens: int = 0
    reasoning_tokens: int | None = None  # None: reasoning is not told apart
    predicts: bool = False  # the client sent a prediction
    spent: list[SpeculationUsage] = field(default_factory=list)
    attempts: int = 0

    def add(self, index: int, delta: TextDelta) -> None:
        """`index`: of the choice."""
        self.completion_tokens += len(delta.tokens)
        if self.reasoning_tokens is not None:
            self.reasoning_tokens += delta.reasoning_tokens
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
        details = self._details()
        return Usage(
            **({"completion_tokens_details": CompletionTokensDetails(**details)} if details else {}),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(self.cached_tokens.values())),
            speculation=SpeculationCounts(**sums),
        )

    def _details(self) -> dict[str, int]:
        details = {} if self.reasoning_tokens is None else {"reasoning_tokens": self.reasoning_tokens}
        if self.predicts:
            verified, accepted = (sum(getattr(usage, name) for usage in self.spent) for name in ("predicted", "predicted_accepted"))
            details |= {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": verified - accepted}
        return details


class Answerer:
    """Makes the answers to one plan; `chat` picks the shape."""

    def __init__(self, plan: RequestPlan, model: str, chat: bool) -> None:
        self._plan, self._model, self._chat = plan, model, chat
        self._created = int(time.time())
        self._begun: set[int] = set()  # chat choices whose role has been sent
        self._frames: dict[tuple[int, bool, bool], tuple[str, str]] = {}

    def count(self) -> UsageCount:
        plan = self._plan
        thinks, predicts = plan.format.tags is not None, bool(plan.requests[0].prediction)
        return UsageCount(plan.prompt_tokens, plan.choices, reasoning_tokens=0 if thinks else None, predicts=predicts)

    def whole(self, outputs: Iterable[Output], usage: Usage) -> dict[str, Any]:
        """`outputs` of all choices."""
        choices = [self._whole_choice(index, output) for index, output in enumerate(outputs)]
        return self._response("chat.completion", choices, usage=usage)

    def _whole_choice(self, index: int, output: Output) -> CompletionChoice | ChatChoice:
        text, reason = "".join(output.text), output.finish_reason
        if not self._chat:
            return CompletionChoice(index=index, text=text, logprobs=None, finish_reason=reason)
        calls = [self._call(index, call, index_too=False) for call in join_calls(tuple(output.calls))]
        parts: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        if reasoning := "".join(output.reasoning):
            parts["reasoning_content"] = reasoning
        if calls:
            parts["tool_calls"] = calls
        return ChatChoice(index=index, message=Message(**parts), logprobs=None, finish_reason=reason)

    def _call(self, choice: int, call: CallDelta, index_too: bool) -> ToolCall:
        """What a delta says of a call, and in the first one, which has its name, its id."""
        parts: dict[str, Any] = {"index": call.index} if index_too else {}
        if not call.name:
            return ToolCall(**parts, function=CalledFunction(arguments=call.arguments))
        tools = self._plan.format.tools
        assert tools is not None, "calls are parsed only where their format is known"
        call_id = tools.call_id(f"{self._plan.id}/{choice}", call.index)
        return ToolCall(**parts, id=call_id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))

    def events(self, index: int, delta: TextDelta, usage: dict[str, None]) -> str:
        """The server-sent events of one delta, possibly none. `usage` is {"usage": None} if the client asked for usage."""
        if not delta.finish_reason and not delta.calls and (not self._chat or index in self._begun):
            thought = self._chunk(index, delta.reasoning, usage, reasoning=True) if delta.reasoning else ""
            return thought + (self._chunk(index, delta.text, usage) if delta.text else "")
        choices: list[CompletionChoice | ChatChoice] = []
        if self._chat and index not in self._begun:
            self._begun.add(index)
            opening = Message(role="assistant", content="")
            choices.append(ChatChoice(index=index, delta=opening, logprobs=None, finish_reason=None))
        if delta.reasoning:
            choices.append(self._thought(index, delta.reasoning))
        if delta.text or (delta.finish_reason and not self._chat):
            reason = None if self._chat else delta.finish_reason or None
            choices.append(self._choice(index, delta.text, reason))
        for call in join_calls(delta.calls):
            said = Message(tool_calls=[self._call(index, call, index_too=True)])
            choices.append(ChatChoice(index=index, delta=said, logprobs=None, finish_reason=None))
        if delta.finish_reason and self._chat:
            choices.append(ChatChoice(index=index, delta=Message(), logprobs=None, finish_reason=delta.finish_reason))
        return "".join(sse(self._response("chat.completion.chunk", [choice], **usage)) for choice in choices)

    def _chunk(self, index: int, text: str, usage: dict[str, None], reasoning: bool = False) -> str:
        """One event in the middle of a choice. Such events differ in their text alone: what stands around it is made once."""
        frame = self._frames.get((index, bool(usage), reasoning))
        if frame is None:
            choice = self._thought(index, TEXT) if reasoning else self._choice(index, TEXT, None)
            whole = sse(self._response("chat.completion.chunk", [choice], **usage))
            before, _, after = whole.partition(json.dumps(TEXT))
            frame = self._frames[index, bool(usage), reasoning] = (before, after)
        return frame[0] + json.dumps(text) + frame[1]

    def usage_event(self, usage: Usage) -> str:
        """The last event before DONE, for a client that asked for usage: no choices."""
        return sse(self._response("chat.completion.chunk", [], usage=usage))

    def _choice(self, index: int, text: str, reason: str | None) -> CompletionChoice | ChatChoice:
        """Of a chunk."""
        if not self._chat:
            return CompletionChoice(index=index, text=text, logprobs=None, finish_reason=reason)
        return ChatChoice(index=index, delta=Message(content=text), logprobs=None, finish_reason=reason)

    def _thought(self, index: int, reasoning: str) -> ChatChoice:
        """Of a chunk."""
        return ChatChoice(index=index, delta=Message(reasoning_content=reasoning), logprobs=None, finish_reason=None)

    def _response(self, kind: str, choices: list[CompletionChoice | ChatChoice], **usage: Usage | None) -> dict[str, Any]:
        response = Response.model_validate(
            {
                "id": self._plan.id,
                "object": kind if self._chat else "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": choices,
                **usage,
                **({"notes": list(self._plan.notes)} if self._plan.notes else {}),
            }
        )
        return response.model_dump(exclude_unset=True)


def sse(body: dict[str, Any]) -> str:
    """In ASCII: clients that read lines may take U+0085, U+2028 and U+2029 for the ends of some, as httpx does."""
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
