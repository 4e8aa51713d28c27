"""The items of a response's output, from the blocks of an answer: as they are at any time, and the events that lead there.

Promises: an item that is done has the text of all of its deltas.
"""

from deployments.api.openai.logprobs import ContentLogprob
from deployments.api.responses.events import (
    ArgumentsDone,
    ArgumentsGrown,
    EventLines,
    ItemChanged,
    PartChanged,
    ReasoningDone,
    ReasoningGrown,
    TextDone,
    TextGrown,
)  # fmt: skip
from deployments.api.responses.input_items import Status
from deployments.api.responses.objects import OutputCall, OutputItem, OutputMessage, OutputReasoning, OutputText, Part, ReasoningText
from deployments.gateway.answer_blocks import Block

PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}
Logprobs = list[ContentLogprob]


class Items:
    """Of one response; `name` is what all of its ids have in common."""

    def __init__(self, name: str, lines: EventLines) -> None:
        self._name, self._lines = name, lines

    def item(self, block: Block, status: Status, logprobs: Logprobs) -> OutputItem:
        """As far as it has come; one that is in progress has no parts yet."""
        item_id, parts = self._id(block), [] if status == "in_progress" else [self._part(block, block.text, logprobs)]
        match block.kind:
            case "reasoning":
                return OutputReasoning(id=item_id, status=status, content=[part for part in parts if isinstance(part, ReasoningText)])
            case "text":
                return OutputMessage(id=item_id, status=status, content=[part for part in parts if isinstance(part, OutputText)])
        arguments = "" if status == "in_progress" else block.text
        return OutputCall(id=item_id, status=status, call_id=block.call_id, name=block.name, arguments=arguments)

    def begun(self, block: Block) -> str:
        added = self._lines.line(
            ItemChanged, type="response.output_item.added", output_index=block.index, item=self.item(block, "in_progress", [])
        )
        return added + self._part_event(block, "response.content_part.added", "", [])

    def grown(self, block: Block, text: str, logprobs: Logprobs) -> str:
        place = {"output_index": block.index, "item_id": self._id(block), "delta": text}
        match block.kind:
            case "reasoning":
                return self._lines.line(ReasoningGrown, **place)
            case "text":
                return self._lines.line(TextGrown, **place, logprobs=logprobs)
        return self._lines.line(ArgumentsGrown, **place)

    def ended(self, block: Block, status: Status, logprobs: Logprobs) -> str:
        place = {"output_index": block.index, "item_id": self._id(block)}
        match block.kind:
            case "reasoning":
                done = self._lines.line(ReasoningDone, **place, text=block.text)
            case "text":
                done = self._lines.line(TextDone, **place, text=block.text, logprobs=logprobs)
            case "call":
                done = self._lines.line(ArgumentsDone, **place, name=block.name, arguments=block.text)
        done += self._part_event(block, "response.content_part.done", block.text, logprobs)
        item = self.item(block, status, logprobs)
        return done + self._lines.line(ItemChanged, type="response.output_item.done", output_index=block.index, item=item)

    def _part_event(self, block: Block, kind: str, text: str, logprobs: Logprobs) -> str:
        """None for a call, which has no parts."""
        if block.kind == "call":
            return ""
        part = self._part(block, text, logprobs)
        return self._lines.line(PartChanged, type=kind, output_index=block.index, item_id=self._id(block), part=part)

    def _part(self, block: Block, text: str, logprobs: Logprobs) -> Part:
        return ReasoningText(text=text) if block.kind == "reasoning" else OutputText(text=text, logprobs=logprobs)

    def _id(self, block: Block) -> str:
        return f"{PREFIXES[block.kind]}_{self._name}{block.index:04x}"
