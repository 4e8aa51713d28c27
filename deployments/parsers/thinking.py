"""Reasoning between tags at the beginning of a text: <think> ... </think>, and its like.

Promises: the tags, and white space beside them, are in no part. A text without tags is content, to the letter.
"""

from dataclasses import dataclass
from enum import Enum, auto

from deployments.parsers.markers import Expected, MarkedText
from deployments.parsers.parsed import Parsed


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """`assumed`: a text begins inside, whether the opening tag is there or not."""

    opening: str
    closing: str
    assumed: bool = False

    def left_open(self, text: str) -> bool:
        """Whether who goes on from the end of `text` goes on thinking."""
        return text.rfind(self.opening) > text.rfind(self.closing)


class _At(Enum):
    OPENING = auto()
    INSIDE = auto()
    BEHIND = auto()
    CONTENT = auto()


class ThinkParser:
    def __init__(self, tags: ThinkTags, inside: bool) -> None:
        """`inside`: the prompt ends after the opening tag."""
        self._inside_from_start = inside or tags.assumed
        self._opening = Expected(tags.opening)
        self._thought = MarkedText(tags.closing)
        self._at, self._begun = _At.OPENING, False

    @property
    def inside(self) -> bool:
        return self._at is _At.INSIDE or (self._at is _At.OPENING and self._inside_from_start)

    @property
    def behind(self) -> bool:
        """Whether white space that comes next still belongs to the end of the reasoning, and is dropped."""
        return self._at is _At.BEHIND

    def feed(self, text: str) -> Parsed:
        if self._at is _At.OPENING:
            begun = self._opening.feed(text)
            if begun is None:
                return Parsed()
            _, tag, text = begun
            self._at = _At.INSIDE if tag or self._inside_from_start else _At.CONTENT
        reasoning = ""
        if self._at is _At.INSIDE:
            reasoning, tag, text = self._thought.feed(text)
            reasoning = self._stripped(reasoning)
            self._at = _At.BEHIND if tag else _At.INSIDE
        if self._at is _At.BEHIND:
            text = text.lstrip()
            self._at = _At.CONTENT if text else _At.BEHIND
        return Parsed(text, reasoning)

    def flush(self) -> Parsed:
        if self._at is _At.OPENING:
            held = self._opening.flush()
            return Parsed(reasoning=held.strip()) if self._inside_from_start else Parsed(held)
        held = self._thought.flush()
        return Parsed(reasoning=self._stripped(held) if held.strip() else "")

    def _stripped(self, reasoning: str) -> str:
        """Without white space where the reasoning begins."""
        reasoning = reasoning if self._begun else reasoning.lstrip()
        self._begun = self._begun or bool(reasoning)
        return reasoning
