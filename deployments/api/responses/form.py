"""One answer of /v1/responses, whole or in events.

Promises: ids and texts of the events are those of the response that ends them, deltas joined are the texts, and sequence numbers
count from 0 without a gap. A stream ends with exactly one of completed, incomplete and failed.
"""

import time
from functools import partial
from typing import Any

from deployments.api.openai.errors import describe_error
from deployments.api.openai.responses import count_of
from deployments.api.responses.events import EventLines, ResponseBegun, ResponseEnded
from deployments.api.responses.input_items import Status
from deployments.api.responses.items import Items, Logprobs
from deployments.api.responses.objects import (
    ErrorCode,
    IncompleteDetails,
    ReasoningSaid,
    ResponseFault,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
    TextSaid,
    ToolNamed,
    ToolSaid,
)  # fmt: skip
from deployments.api.responses.schema import FunctionChoice, ResponsesRequest
from deployments.api.responses.text_logprobs import TextLogprobs
from deployments.gateway.answer_blocks import AnswerBlocks, Begun, Block, BlockEvent, Ended, Grown, cut_off
from deployments.gateway.detokenizer import TokenBytes
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from drafthouse.errors import OverloadError, RequestError


class ResponsesForm:
    """An `answering.AnswerForm`."""

    def __init__(self, body: ResponsesRequest, plan: RequestPlan, model: str, token_bytes: TokenBytes) -> None:
        name = plan.id.rpartition("-")[2]
        self._said = what_was_asked(body, plan) | {"id": f"resp_{name}", "model": model, "created_at": int(time.time())}
        self._count = count_of(plan)
        self._blocks = AnswerBlocks(partial(plan.call_id, 0))
        self._logprobs = TextLogprobs(token_bytes)
        self._lines = EventLines()
        self._items = Items(name, self._lines)
        self._finish_reason = ""
        self._text_numbers: dict[int, int] = {}  # by block

    def opening(self) -> str:
        begun = self._response("in_progress")
        kinds = ("response.created", "response.in_progress")
        return "".join(self._lines.line(ResponseBegun, type=kind, response=begun) for kind in kinds)

    def events(self, index: int, delta: TextDelta) -> str:
        return "".join(map(self._event, self._advance(index, delta)))

    def closing(self) -> str:
        response = self._ended()
        return self._lines.line(ResponseEnded, type=f"response.{response.status}", response=response)

    def failure(self, error: Exception) -> str:
        fault = ResponseFault(code=error_code(error), message=describe_error(error)[1]["error"]["message"])
        failed = self._response("failed", output=self._output(), error=fault)
        return self._lines.line(ResponseEnded, type="response.failed", response=failed)

    def add(self, index: int, delta: TextDelta) -> None:
        self._advance(index, delta)

    def whole(self) -> dict[str, Any]:
        return self._ended().model_dump(mode="json")

    def _advance(self, index: int, delta: TextDelta) -> list[BlockEvent]:
        self._count.add(index, delta)
        self._logprobs.add(delta)
        self._finish_reason = delta.finish_reason
        events = self._blocks.add(delta)
        for event in events:
            if isinstance(event, Begun) and event.block.kind == "text":
                self._text_numbers[event.block.index] = len(self._text_numbers)
        return events

    def _event(self, event: BlockEvent) -> str:
        match event:
            case Begun(block):
                return self._items.begun(block)
            case Grown(block, text):
                return self._items.grown(block, text, self._logprobs.take(self._text_numbers.get(block.index)))
            case Ended(block):
                return self._items.ended(block, self._status(block), self._logprobs_of(block))

    def _output(self) -> list[Any]:
        return [self._items.item(b, self._status(b), self._logprobs_of(b)) for b in self._blocks.blocks]

    def _status(self, block: Block) -> Status:
        """Of a block that has ended, or whose response has: only the last one can be cut off."""
        return "incomplete" if block is self._blocks.blocks[-1] and cut_off(block, self._finish_reason) else "completed"

    def _logprobs_of(self, block: Block) -> Logprobs:
        return self._logprobs.of(self._text_numbers.get(block.index))

    def _ended(self) -> ResponseObject:
        came = {"output": self._output(), "usage": ResponseUsage.of(self._count.usage()), **self._count.metrics()}
        if self._finish_reason == "length":
            return self._response("incomplete", **came, incomplete_details=IncompleteDetails())
        return self._response("completed", **came, completed_at=int(time.time()))

    def _response(self, status: ResponseStatus, **fields: Any) -> ResponseObject:
        return ResponseObject(**self._said, status=status, **fields)


def what_was_asked(body: ResponsesRequest, plan: RequestPlan) -> dict[str, Any]:
    """The fields of a response that repeat its request."""
    sampling, text = plan.requests[0].sampling, body.text
    choice = body.tool_choice
    tools = [ToolSaid(**tool.model_dump()) for tool in body.tools or []]
    form = text.format if text is not None and text.format is not None else {"type": "text"}
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": ReasoningSaid(effort=body.reasoning.effort if body.reasoning is not None else None),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "text": TextSaid(format=form, verbosity=text.verbosity if text is not None else None),
        "tool_choice": ToolNamed(name=choice.name) if isinstance(choice, FunctionChoice) else choice or "auto",
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "metadata": body.metadata or {},
        "truncation": body.truncation or "disabled",
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "notes": list(plan.notes) or None,
    }


def error_code(error: Exception) -> ErrorCode:
    match error:
        case OverloadError():
            return "rate_limit_exceeded"
        case RequestError():
            return "invalid_prompt"
    return "server_error"
