"""What a request's output is parsed by: reasoning first, then calls in what follows it.

Promises: an output that may have one call ends with it.
"""

from pydantic_core import from_json

from deployments.parsers.parsed import CallDelta, Parsed, ToolParser
from deployments.parsers.thinking import ThinkParser


class OutputParser:
    """Of one output. `ended`: the one call that it may have is complete, and no more is to be generated."""

    def __init__(self, thinking: ThinkParser | None, tools: ToolParser | None, one_call: bool) -> None:
        self._thinking, self._tools, self._one_call = thinking, tools, one_call
        self.called = self.ended = False
        self._last = 0  # the index of the last call that has begun
        self._arguments = list[str]()  # of that one

    @property
    def thinks(self) -> bool:
        """Whether what comes next is part of the reasoning, or its end tag."""
        return self._thinking is not None and self._thinking.inside

    @property
    def aside(self) -> bool:
        """Whether what comes next is no content if it is dropped: part of the reasoning, of white space behind it, or of a call."""
        return self.thinks or (self._thinking is not None and self._thinking.behind) or (self._tools is not None and self._tools.in_call)

    @property
    def cut(self) -> bool:
        """Whether the last call has not ended: nothing says so, and its arguments, as far as they have come, are no JSON."""
        return self.called and self._tools is not None and self._tools.complete <= self._last and not is_json("".join(self._arguments))

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
        found, last = self._tool_calls(parsed.content), self._tools.flush()
        self._note(last.calls)
        return Parsed(reasoning=parsed.reasoning) + found + last

    def _fed(self, text: str) -> Parsed:
        parsed = self._thinking.feed(text) if self._thinking is not None else Parsed(text)
        if self._tools is None:
            return parsed
        return Parsed(reasoning=parsed.reasoning) + self._tool_calls(parsed.content)

    def _tool_calls(self, content: str) -> Parsed:
        assert self._tools is not None
        parsed = self._tools.feed(content) if content else Parsed()
        self._note(parsed.calls)
        self.ended = self._one_call and self._tools.complete > 0
        return parsed

    def _note(self, calls: tuple[CallDelta, ...]) -> None:
        self.called = self.called or bool(calls)
        for call in calls:
            if call.index != self._last:
                self._last, self._arguments = call.index, []
            self._arguments.append(call.arguments)


def is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True
