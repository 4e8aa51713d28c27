"""What a request's output is parsed by: reasoning first, then calls in what follows it.

Promises: an output that may have one call ends with it.
"""

from deployments.parsers.parsed import Parsed, ToolParser
from deployments.parsers.thinking import ThinkParser


class OutputParser:
    """Of one output. `ended`: the one call that it may have is complete, and no more is to be generated."""

    def __init__(self, thinking: ThinkParser | None, tools: ToolParser | None, one_call: bool) -> None:
        self._thinking, self._tools, self._one_call = thinking, tools, one_call
        self.called = self.ended = False

    @property
    def thinks(self) -> bool:
        """Whether what comes next is part of the reasoning, or its end tag."""
        return self._thinking is not None and self._thinking.inside

    @property
    def aside(self) -> bool:
        """Whether what comes next is certainly no content: part of the reasoning or of a call."""
        return self.thinks or (self._tools is not None and self._tools.in_call)

    def feed(self, text: str) -> Parsed:
        if not self._one_call:
            return self._fed(text)
        parsed = Parsed()
        for char in text:  # what follows the end of the call in the same piece is not to come out
            if not self.ended:
                parsed += self._fed(char)
        return parsed

    def flush(self) -> Parsed:
        if self.ended:
            return Parsed()
        parsed = self._thinking.flush() if self._thinking is not None else Parsed()
        if self._tools is None:
            return parsed
        return Parsed(reasoning=parsed.reasoning) + self._tool_calls(parsed.content) + self._tools.flush()

    def _fed(self, text: str) -> Parsed:
        parsed = self._thinking.feed(text) if self._thinking is not None else Parsed(text)
        if self._tools is None:
            return parsed
        return Parsed(reasoning=parsed.reasoning) + self._tool_calls(parsed.content)

    def _tool_calls(self, content: str) -> Parsed:
        assert self._tools is not None
        parsed = self._tools.feed(content) if content else Parsed()
        self.called = self.called or bool(parsed.calls)
        self.ended = self._one_call and self._tools.complete > 0
        return parsed
