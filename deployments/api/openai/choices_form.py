"""Answers of /v1/completions and /v1/chat/completions: one choice after another, then the usage, then DONE."""

from typing import Any

from deployments.api.openai.errors import describe_error
from deployments.api.openai.responses import DONE, Answerer, Output, count_of, sse
from deployments.api.openai.schema import GenerationBody
from deployments.api.trace_form import NodeBudget
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta


class ChoicesForm:
    """An `answering.AnswerForm`. The usage is an event only where `body` asks for it."""

    def __init__(self, answerer: Answerer, plan: RequestPlan, body: GenerationBody) -> None:
        self._answerer, self._count = answerer, count_of(plan)
        budget = NodeBudget()
        self._outputs = [Output(budget) for _ in plan.requests]
        self._include_usage, self._continuous_usage = body.include_usage, body.continuous_usage

    def opening(self) -> str:
        return ""

    def events(self, index: int, delta: TextDelta) -> str:
        self._count.add(index, delta)
        so_far = self._count.usage() if self._continuous_usage else None
        return self._answerer.events(index, delta, {"usage": so_far} if self._include_usage else {})

    def closing(self) -> str:
        return (self._answerer.usage_event(self._count) if self._include_usage else "") + DONE

    def failure(self, error: Exception) -> str:
        return sse(describe_error(error)[1]) + DONE

    def add(self, index: int, delta: TextDelta) -> None:
        self._outputs[index].add(delta)
        self._count.add(index, delta)

    def whole(self) -> dict[str, Any]:
        return self._answerer.whole(self._outputs, self._count)
