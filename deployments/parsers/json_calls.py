"""Calls as bare JSON: the whole text is one {"name": ..., "arguments": {...}}, or several, in a list or not.

Nothing marks a call here, so it counts only where the text begins with it, a tool has its name, and it has arguments.
"""

from deployments.parsers.call_form import CallForm
from deployments.parsers.call_list import CallList
from deployments.parsers.markers import Expected, MarkedText
from deployments.parsers.parsed import Parsed, ToolParser

FORM = CallForm(('{"name": "',), ('", "arguments": ',), ("}",), between=(", ",), first=("[",), last=("]",))


class JsonCallsParser(ToolParser):
    def __init__(self, names: frozenset[str], marker: str = "", separators: str = ",") -> None:
        """`marker` may stand before the calls; `separators` between two of them."""
        super().__init__(names)
        self._marker, self._separators = marker, separators
        self._start: Expected | None = Expected(marker, "{", "[") if marker else Expected("{", "[")
        self._said = ""  # what stood before the calls, and is content if there are none
        self._list: CallList | None = None
        self._text = MarkedText()

    @property
    def in_call(self) -> bool:
        return self._list is not None and self._list.begun

    def feed(self, text: str) -> Parsed:
        if self._start is not None:
            begun = self._start.feed(text)
            if begun is None:
                return Parsed()
            space, found, rest = begun
            self._said += space
            if found and found == self._marker:
                self._said += found
                self._start = Expected("{", "[")
                return self.feed(rest)
            self._start = None
            text = found + rest
            if not found:
                return self._content(self._said + text)
            self._list = CallList(0, self.names, needs_arguments=True, separators=self._separators)
        if self._list is None:
            return self._content(text)
        deltas, after = self._list.feed(text)
        self.complete = self._list.complete
        if after is None:
            return Parsed(calls=deltas)
        self._list = None
        return Parsed(calls=deltas) + self._content(after if self.complete else self._said + after)

    def flush(self) -> Parsed:
        if self._start is not None:
            return Parsed(self._said + self._start.flush())
        held = self._list.flush() if self._list is not None else self._text.flush()
        if self.complete:
            return Parsed(held if held.strip() else "")
        return Parsed(self._said + held if self._list is not None and held else held)

    def _content(self, text: str) -> Parsed:
        return Parsed(self._text.feed(text)[0])
