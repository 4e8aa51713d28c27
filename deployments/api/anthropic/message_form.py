"""An answer as Anthropic's message: thinking, text and calls as blocks, whole or in events.

Promises: the blocks that a stream's events add up to are those of the whole message, however the output is split into deltas.
"""

import json
from functools import partial
from typing import Any

from pydantic_core import from_json

from deployments.api.anthropic.answers import Message, MessageUsage, OutputTokensDetails, StopReason, TextBlock, ThinkingBlock, ToolUseBlock
from deployments.api.anthropic.errors import error_body
from deployments.api.openai.errors import describe_error
from deployments.api.openai.responses import UsageCount, sse
from deployments.gateway.answer_blocks import AnswerBlocks, Begun, Block, BlockEvent, Ended, Grown
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta

REASONS: dict[str, StopReason] = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
DELTAS = {"reasoning": ("thinking_delta", "thinking"), "text": ("text_delta", "text")}
"""By kind of block: the type of its deltas, and where these have what is new."""


class MessageForm:
    """An `answering.AnswerForm`, of one choice."""

    def __init__(self, plan: RequestPlan, model: str, count: UsageCount, omit_thinking: bool = False) -> None:
        """`omit_thinking`: its blocks are there, and empty."""
        self._omit_thinking = omit_thinking
        self._id, self._model, self._count = plan.id, model, count
        self._blocks = AnswerBlocks(partial(plan.call_id, 0))
        self._last: TextDelta | None = None

    def opening(self) -> str:
        return ""  # how much of the prompt was cached is known with the first delta

    def events(self, index: int, delta: TextDelta) -> str:
        begins = self._last is None
        events = "".join(map(self._block_event, self._taken(delta)))
        return (self._start(delta) if begins else "") + events

    def closing(self) -> str:
        reason, stop_sequence = self._stop()
        ended = {"stop_reason": reason, "stop_sequence": stop_sequence}
        last = event("message_delta", delta=ended, usage=self._usage().model_dump(exclude_none=True))
        return last + event("message_stop")

    def failure(self, error: Exception) -> str:
        return event("error", **failure_body(error))

    def add(self, index: int, delta: TextDelta) -> None:
        self._taken(delta)

    def whole(self) -> dict[str, Any]:
        reason, stop_sequence = self._stop()
        content = [self._content_block(block) for block in self._blocks.blocks]
        return self._message(content, self._usage(), reason, stop_sequence)

    def _taken(self, delta: TextDelta) -> list[BlockEvent]:
        self._count.add(0, delta)
        self._last = delta
        return self._blocks.add(delta)

    def _start(self, delta: TextDelta) -> str:
        """The message without anything in it, but with what is known of the prompt."""
        cached = delta.usage.cached_tokens
        usage = self._usage().model_copy(
            update={"input_tokens": self._count.prompt_tokens - cached, "cache_read_input_tokens": cached, "output_tokens": 0}
        )
        return event("message_start", message=self._message([], usage)) + event("ping")

    def _message(
        self,
        content: list[TextBlock | ThinkingBlock | ToolUseBlock],
        usage: MessageUsage,
        reason: StopReason | None = None,
        stop_sequence: str | None = None,
    ) -> dict[str, Any]:
        message = Message(
            id=self._id, model=self._model, content=content, stop_reason=reason, stop_sequence=stop_sequence, usage=usage
        )  # fmt: skip
        return message.model_dump()

    def _usage(self) -> MessageUsage:
        usage = self._count.usage()
        cached, thought = usage.prompt_tokens_details.cached_tokens, self._count.reasoning_tokens
        return MessageUsage(
            input_tokens=usage.prompt_tokens - cached, cache_read_input_tokens=cached, output_tokens=usage.completion_tokens,
            output_tokens_details=None if thought is None else OutputTokensDetails(thinking_tokens=thought),
            speculation=usage.speculation,
        )  # fmt: skip

    def _stop(self) -> tuple[StopReason, str | None]:
        """(why the answer ended, the stop sequence that ended it)."""
        assert self._last is not None, "an answer ends with a delta that says why"
        reason = self._last.finish_reason
        sequence = self._last.stop_string or None
        return ("stop_sequence" if reason == "stop" and sequence else REASONS[reason]), sequence

    def _block_event(self, said: BlockEvent) -> str:
        """Only the whole of a call's arguments shows whether they are an object, so its input comes with its end, and a ping until then."""
        match said:
            case Begun(block):
                return event("content_block_start", index=block.index, content_block=begun_block(block).model_dump())
            case Grown(block, text):
                if block.kind == "call" or (block.kind == "reasoning" and self._omit_thinking):
                    return event("ping")
                kind, field = DELTAS[block.kind]
                return event("content_block_delta", index=block.index, delta={"type": kind, field: text})
            case Ended(block):
                ended = event("content_block_stop", index=block.index)
                if block.kind != "call":
                    return ended
                whole = {"type": "input_json_delta", "partial_json": json.dumps(self._input(block))}
                return event("content_block_delta", index=block.index, delta=whole) + ended

    def _content_block(self, block: Block) -> TextBlock | ThinkingBlock | ToolUseBlock:
        match block.kind:
            case "reasoning":
                return ThinkingBlock(thinking="" if self._omit_thinking else block.text)
            case "text":
                return TextBlock(text=block.text)
            case "call":
                return ToolUseBlock(id=block.call_id, name=block.name, input=self._input(block))

    def _input(self, block: Block) -> dict[str, Any]:
        """Of a call that has ended, or whose answer has: the limit cuts off the last block alone."""
        assert self._last is not None, "a block comes with a delta"
        return input_of(block.text, self._last.finish_reason == "length" and block is self._blocks.blocks[-1])


def begun_block(block: Block) -> TextBlock | ThinkingBlock | ToolUseBlock:
    """What is known of it before it holds anything."""
    match block.kind:
        case "reasoning":
            return ThinkingBlock(thinking="")
        case "text":
            return TextBlock(text="")
        case "call":
            return ToolUseBlock(id=block.call_id, name=block.name, input={})


def input_of(arguments: str, partial: bool) -> dict[str, Any]:
    """What is no JSON object stands under `unparsed`, and so do numbers that JSON cannot write again. `partial`: the limit cuts the
    arguments off; what has come counts, as Anthropic's own client reads it."""
    try:
        parsed = from_json(arguments or "{}", allow_inf_nan=False, allow_partial=partial)
        json.dumps(parsed, allow_nan=False)  # 1e999 is read as infinity
    except ValueError:
        return {"unparsed": arguments}
    return parsed if isinstance(parsed, dict) else {"unparsed": arguments}


def failure_body(error: Exception) -> dict[str, Any]:
    status, body = describe_error(error)
    return error_body(status, body["error"]["message"]).model_dump()


def event(kind: str, **said: Any) -> str:
    return f"event: {kind}\n{sse({'type': kind, **said})}"
