"""What /v1/completions and /v1/chat/completions answer, made from a plan and its deltas.

Promises: a field that is absent from the JSON is absent here too (`exclude_unset`), so every field sent is named where it is made.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.api.openai.answers import (
    Acceptance,
    CalledFunction,
    ChatChoice,
    CompletionChoice,
    CompletionTokensDetails,
    Message,
    PromptTokensDetails,
    RequestMetrics,
    Response,
    SpeculationCounts,
    ToolCall,
    Usage,
)
from deployments.api.openai.logprobs import CompletionLogprobs, CompletionTokens, chat_logprobs, prompt_logprobs
from deployments.api.openai.logprobs import joined as joined_logprobs
from deployments.api.trace_form import NodeBudget, TraceForm
from deployments.gateway.detokenizer import TokenBytes
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from deployments.parsers.parsed import CallDelta, join_calls
from drafthouse.token_logprobs import TokenLogprob
from drafthouse.wire.generation_messages import SpeculationUsage
from drafthouse.wire.step_trace import StepTrace

DONE = "data: [DONE]\n\n"

TEXT = "\0text\0"
"""Stands for the text in the frame of a chunk."""


@dataclass(slots=True)
class Output:
    """One choice as it has come so far. `budget` is that of the whole answer."""

    budget: NodeBudget
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallDelta] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    trace: list[StepTrace] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, delta: TextDelta) -> None:
        self.text.append(delta.text)
        self.reasoning.append(delta.reasoning)
        self.calls += delta.calls
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs
        self.trace += self.budget.fit(delta.trace)
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
    grammar: bool = False  # the output had to follow one
    spent: dict[int, SpeculationUsage] = field(default_factory=dict)  # by choice, so far
    attempts: int = 0
    accepted: list[int] = field(default_factory=list)  # by each step that verified drafts

    def add(self, index: int, delta: TextDelta) -> None:
        """`index`: of the choice."""
        self.completion_tokens += len(delta.tokens)
        if self.reasoning_tokens is not None:
            self.reasoning_tokens += delta.reasoning_tokens
        self.spent[index] = delta.usage
        self.attempts = max(self.attempts, delta.attempt)
        self.accepted += delta.accepted
        if delta.finish_reason:
            prompt, cached = index // self.choices, delta.usage.cached_tokens
            self.cached_tokens[prompt] = min(cached, self.cached_tokens.get(prompt, cached))

    def usage(self) -> Usage:
        names = ("drafted", "verified", "accepted", "steps")
        sums: dict[str, Any] = {name: sum(getattr(usage, name) for usage in self.spent.values()) for name in names} | {
            "attempts": self.attempts
        }
        if any(usage.synthetic for usage in self.spent.values()):
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

    def metrics(self) -> dict[str, RequestMetrics]:
        """Nothing where there are several choices, or no drafts were verified."""
        if len(self.spent) != 1 or not self.accepted:
            return {}
        (usage,) = self.spent.values()
        steps, accepted = len(self.accepted), sum(self.accepted)
        counts = Counter(self.accepted)
        acceptance = Acceptance(
            mean_acceptance_length=1 + accepted / steps,
            draft_acceptance_rate=accepted / usage.verified,
            acceptance_histogram=[counts[drafts] for drafts in range(max(counts) + 1)],
            num_spec_steps=steps,
            num_accepted_draft_tokens=accepted,
            num_draft_tokens=usage.verified,
            num_spec_tokens=None,
        )
        return {"metrics": RequestMetrics(speculative_decoding=acceptance)}

    def _details(self) -> dict[str, int]:
        details = {} if self.reasoning_tokens is None else {"reasoning_tokens": self.reasoning_tokens}
        if self.predicts:
            verified = sum(usage.predicted for usage in self.spent.values())
            accepted = sum(usage.predicted_accepted for usage in self.spent.values())
            details |= {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": verified - accepted}
        if self.grammar:
            details["forced_tokens"] = sum(usage.forced for usage in self.spent.values())
        return details


def count_of(plan: RequestPlan) -> UsageCount:
    """Of nothing yet."""
    thinks, predicts = plan.format.tags is not None, bool(plan.requests[0].prediction)
    grammar = plan.requests[0].sampling.grammar is not None
    return UsageCount(plan.prompt_tokens, plan.choices, reasoning_tokens=0 if thinks else None, predicts=predicts, grammar=grammar)


class Answerer:
    """Makes the answers to one plan; `chat` picks the shape."""

    def __init__(self, plan: RequestPlan, model: str, chat: bool, token_bytes: TokenBytes) -> None:
        self._plan, self._model, self._chat, self._token_bytes = plan, model, chat, token_bytes
        self._wish = plan.requests[0].logprobs
        self._tokens = [CompletionTokens(token_bytes) for _ in plan.requests]
        self._traces = [TraceForm(plan.format.token_bytes) for _ in plan.requests] if plan.traced else []
        self._prompts: dict[int, list[TokenLogprob]] = {}  # of choices that stream and whose echo has not been sent
        if plan.echoes:
            self._prompts = {index: [] for index in range(len(plan.requests))}
        self._created = int(time.time())
        self._begun: set[int] = set()  # chat choices whose role has been sent
        self._frames: dict[tuple[int, bool, bool], tuple[str, str]] = {}

    def whole(self, outputs: Sequence[Output], count: UsageCount) -> dict[str, Any]:
        """`outputs` of all choices, and the count of all of them."""
        choices = [self._whole_choice(index, output) for index, output in enumerate(outputs)]
        said = self._prompt_logprobs(0, outputs[0]) if self._chat else {}
        return self._response("chat.completion", choices, usage=count.usage(), **count.metrics(), **said)

    def _whole_choice(self, index: int, output: Output) -> CompletionChoice | ChatChoice:
        text, reason = "".join(output.text), output.finish_reason
        if not self._chat:
            return self._whole_completion(index, output, text)
        calls = [self._call(index, call, index_too=False) for call in join_calls(tuple(output.calls))]
        parts: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        if reasoning := "".join(output.reasoning):
            parts["reasoning_content"] = reasoning
        if calls:
            parts["tool_calls"] = calls
        logprobs = self._logprobs(index, output.tokens, output.logprobs)
        said = self._trace(index, output.trace)
        return ChatChoice(index=index, message=Message(**parts), logprobs=logprobs, finish_reason=reason, **said)

    def _whole_completion(self, index: int, output: Output, text: str) -> CompletionChoice:
        prompt = self._echo_logprobs(index, output.prompt_logprobs) if self._plan.echoes else None
        logprobs = self._logprobs(index, output.tokens, output.logprobs)
        if self._plan.echoes:
            text, logprobs = self._plan.echoes[index // self._plan.choices] + text, joined_logprobs(prompt, logprobs)
        said = self._prompt_logprobs(index, output) | self._trace(index, output.trace)
        return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=output.finish_reason, **said)

    def _call(self, choice: int, call: CallDelta, index_too: bool) -> ToolCall:
        """What a delta says of a call, and in the first one, which has its name, its id."""
        parts: dict[str, Any] = {"index": call.index} if index_too else {}
        if not call.name:
            return ToolCall(**parts, function=CalledFunction(arguments=call.arguments))
        call_id = self._plan.call_id(choice, call.index)
        return ToolCall(**parts, id=call_id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))

    def _prompt_logprobs(self, index: int, output: Output) -> dict[str, Any]:
        """Nothing where they are not asked for."""
        if (top := self._plan.prompt_top) is None:
            return {}
        found = [each.best(top) for each in output.prompt_logprobs]
        return {"prompt_logprobs": prompt_logprobs(self._plan.requests[index].prompt, found, self._token_bytes)}

    def _trace(self, index: int, steps: Sequence[StepTrace]) -> dict[str, Any]:
        """Of a choice's next steps; nothing where they are not asked for."""
        return {"trace": self._traces[index].steps(steps)} if self._plan.traced else {}

    def _logprobs(self, index: int, tokens: Sequence[int], found: Sequence[TokenLogprob]) -> Any:
        if self._wish.top is None:
            return None
        return chat_logprobs(tokens, found, self._token_bytes) if self._chat else self._tokens[index].logprobs(tokens, found)

    def _echo_logprobs(self, index: int, found: Sequence[TokenLogprob]) -> CompletionLogprobs | None:
        if self._wish.top is None:
            return None
        cut = [each.best(self._wish.top) for each in found]
        return self._tokens[index].logprobs(self._plan.requests[index].prompt, [None, *cut])

    def events(self, index: int, delta: TextDelta, usage: dict[str, Usage | None]) -> str:
        """The server-sent events of one delta, possibly none. `usage` is {"usage": ...} if the client asked for usage: None, or what has
        come so far where it asked for that in every event."""
        if index in self._prompts:
            self._prompts[index] += delta.prompt_logprobs
            if not delta.tokens and not delta.finish_reason:
                return ""
            return self._echo_event(index, usage) + self.events(index, delta, usage)
        if self._wish.top is None and not delta.trace and not usage.get("usage") and self._is_plain(index, delta):
            thought = self._chunk(index, delta.reasoning, usage, reasoning=True) if delta.reasoning else ""
            return thought + (self._chunk(index, delta.text, usage) if delta.text else "")
        choices: list[CompletionChoice | ChatChoice] = []
        if self._chat and index not in self._begun:
            self._begun.add(index)
            opening = Message(role="assistant", content="")
            choices.append(ChatChoice(index=index, delta=opening, logprobs=None, finish_reason=None))
        if delta.reasoning:
            choices.append(self._thought(index, delta.reasoning))
        scored = bool(delta.tokens) and self._wish.top is not None
        if delta.text or (delta.finish_reason and not self._chat) or scored or delta.trace:
            reason, logprobs = None if self._chat else delta.finish_reason or None, self._logprobs(index, delta.tokens, delta.logprobs)
            choices.append(self._choice(index, delta.text, reason, logprobs, delta.trace))
        for call in join_calls(delta.calls):
            said = Message(tool_calls=[self._call(index, call, index_too=True)])
            choices.append(ChatChoice(index=index, delta=said, logprobs=None, finish_reason=None))
        if delta.finish_reason and self._chat:
            choices.append(ChatChoice(index=index, delta=Message(), logprobs=None, finish_reason=delta.finish_reason))
        return "".join(sse(self._response("chat.completion.chunk", [choice], **usage)) for choice in choices)

    def _is_plain(self, index: int, delta: TextDelta) -> bool:
        """Whether its events are like those in the middle of a choice."""
        return not delta.finish_reason and not delta.calls and (not self._chat or index in self._begun)

    def _echo_event(self, index: int, usage: dict[str, Usage | None]) -> str:
        text, found = self._plan.echoes[index // self._plan.choices], self._prompts.pop(index)
        choice = self._choice(index, text, None, self._echo_logprobs(index, found))
        return sse(self._response("text_completion", [choice], **usage))

    def _chunk(self, index: int, text: str, usage: dict[str, Usage | None], reasoning: bool = False) -> str:
        """One event in the middle of a choice. Such events differ in their text alone: what stands around it is made once."""
        frame = self._frames.get((index, bool(usage), reasoning))
        if frame is None:
            choice = self._thought(index, TEXT) if reasoning else self._choice(index, TEXT, None)
            whole = sse(self._response("chat.completion.chunk", [choice], **usage))
            before, _, after = whole.partition(json.dumps(TEXT))
            frame = self._frames[index, bool(usage), reasoning] = (before, after)
        return frame[0] + json.dumps(text) + frame[1]

    def usage_event(self, count: UsageCount) -> str:
        """The last event before DONE, for a client that asked for usage: no choices."""
        return sse(self._response("chat.completion.chunk", [], usage=count.usage(), **count.metrics()))

    def _choice(
        self, index: int, text: str, reason: str | None, logprobs: Any = None, trace: Sequence[StepTrace] = ()
    ) -> CompletionChoice | ChatChoice:
        """Of a chunk."""
        said = self._trace(index, trace) if trace else {}
        if not self._chat:
            return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=reason, **said)
        return ChatChoice(index=index, delta=Message(content=text), logprobs=logprobs, finish_reason=reason, **said)

    def _thought(self, index: int, reasoning: str) -> ChatChoice:
        """Of a chunk."""
        return ChatChoice(index=index, delta=Message(reasoning_content=reasoning), logprobs=None, finish_reason=None)

    def _response(self, kind: str, choices: list[CompletionChoice | ChatChoice], **further: Any) -> dict[str, Any]:
        response = Response.model_validate(
            {
                "id": self._plan.id,
                "object": kind if self._chat else "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": choices,
                **further,
                **({"notes": list(self._plan.notes)} if self._plan.notes else {}),
            }
        )
        return response.model_dump(exclude_unset=True)


def sse(body: dict[str, Any]) -> str:
    """In ASCII: clients that read lines may take U+0085, U+2028 and U+2029 for the ends of some, as httpx does."""
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
