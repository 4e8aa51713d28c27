"""The span of one client's request, from its arrival to its last token, with the attributes of OpenTelemetry's GenAI conventions.

Promises: says what was asked for and what came of it, in numbers and names; no prompt, no text, no key. An error that ends the request
marks the span; a client that goes away does not.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from drafthouse.telemetry.spans import Attribute, OpenSpan
from drafthouse.wire.generation_messages import GenerateRequest, SpeculationUsage

PROVIDER = "drafthouse"


class RequestSpan:
    """`arrived` in monotonic seconds, as all times here."""

    def __init__(self, span: OpenSpan, model: str, arrived: float) -> None:
        self._span, self._model, self._arrived = span, model, arrived
        span.set({"gen_ai.provider.name": PROVIDER, "gen_ai.request.model": model})
        self._first_token_at: float | None = None
        self._tokens, self._reasoning, self._attempt = 0, 0, 1
        self._finish: dict[int, str] = {}
        self._usage: dict[int, SpeculationUsage] = {}
        self._outcome = "cancelled"

    def planned(self, plan: RequestPlan, request_id: str) -> RequestPlan:
        """The plan whose requests carry this span to their verifiers."""
        operation = "chat" if plan.chat else "text_completion"
        self._span.rename(f"{operation} {self._model}")
        self._span.set({"gen_ai.operation.name": operation, "gen_ai.response.id": plan.id} | _asked(plan))
        if request_id:
            self._span.set({"drafthouse.request_id": request_id})
        self._span.child("plan", self._arrived, time.monotonic(), {"drafthouse.prompt_tokens": plan.prompt_tokens})
        return replace(plan, requests=tuple(replace(request, traceparent=self._span.traceparent) for request in plan.requests))

    async def watched(self, deltas: AsyncGenerator[tuple[int, TextDelta], None]) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """The same deltas. Closing it closes them."""
        try:
            async with aclosing(deltas):
                async for index, delta in deltas:
                    self._saw(index, delta)
                    yield index, delta
            self._outcome = "served"
        except Exception as error:
            self.failed(error)
            raise

    def _saw(self, index: int, delta: TextDelta) -> None:
        if delta.tokens and self._first_token_at is None:
            self._first_token_at = time.monotonic()
        self._tokens += len(delta.tokens)
        self._reasoning += delta.reasoning_tokens
        self._attempt, self._usage[index] = max(self._attempt, delta.attempt), delta.usage
        if delta.finish_reason:
            self._finish[index] = delta.finish_reason
            self._outcome = "served"

    def failed(self, error: Exception) -> None:
        self._outcome = "error"
        self._span.failed(type(error).__name__, str(error))

    def end(self) -> None:
        """Whatever became of it."""
        usages = self._usage.values()
        self._span.set(
            {
                "drafthouse.outcome": self._outcome, "drafthouse.attempts": self._attempt, "gen_ai.response.model": self._model,
                "gen_ai.usage.output_tokens": self._tokens, "gen_ai.usage.reasoning.output_tokens": self._reasoning,
                "gen_ai.usage.cache_read.input_tokens": sum(usage.cached_tokens for usage in usages),
                "gen_ai.response.finish_reasons": [self._finish[index] for index in sorted(self._finish)],
                "drafthouse.steps": sum(usage.steps for usage in usages),
                "drafthouse.verified_tokens": sum(usage.verified for usage in usages),
                "drafthouse.accepted_tokens": sum(usage.accepted for usage in usages),
            }
        )  # fmt: skip
        if self._first_token_at is not None:
            self._span.set({"gen_ai.response.time_to_first_chunk": self._first_token_at - self._arrived})
        self._span.end(time.monotonic())


def _asked(plan: RequestPlan) -> dict[str, Attribute]:
    request: GenerateRequest = plan.requests[0]
    sampling = request.sampling
    return {
        "gen_ai.request.max_tokens": request.max_tokens, "gen_ai.request.choice.count": len(plan.requests),
        "gen_ai.request.seed": plan.seed, "gen_ai.request.temperature": sampling.temperature, "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k, "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty, "gen_ai.usage.input_tokens": plan.prompt_tokens,
        "drafthouse.speculation.mode": request.speculation.mode,
    }  # fmt: skip
