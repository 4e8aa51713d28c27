"""Where a JSON value ends, in a text that comes in pieces.

Promises: brackets and quotes alone decide; what stands between them is not judged. Linear in the text.
"""

import re

SPACE = " \t\r\n"
IN_STRING = re.compile(r'[^"\\]*')
BETWEEN = re.compile(r'[^"{}\[\]<]*')
SCALAR = re.compile(r"[^\s,:\"{}\[\]<]*")


class JsonValue:
    """One value, whose first character is not white space. `kind` is that character; `complete`: its end has been seen."""

    def __init__(self, first: str) -> None:
        self.kind = first
        self.complete = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def take(self, text: str, at: int) -> int:
        """The index behind what belongs to the value of `text[at:]`. A `<` outside of strings ends any value: it begins a tag."""
        while at < len(text) and not self.complete:
            if self._in_string:
                at = self._string(text, at)
            elif self.kind in '"{[':
                at = self._bracket(text, at)
            else:
                end = self._matched(SCALAR, text, at)
                self.complete = end < len(text)
                return end
        return at

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        at = self._matched(IN_STRING, text, at)
        if at == len(text):
            return at
        self._escaped = text[at] == "\\"
        self._in_string = self._escaped
        self.complete = not self._in_string and not self._depth
        return at + 1

    def _bracket(self, text: str, at: int) -> int:
        at = self._matched(BETWEEN, text, at)
        if at == len(text):
            return at
        char = text[at]
        if char == "<":
            self.complete = True
            return at
        if char == '"':
            self._in_string = True
        else:
            self._depth += 1 if char in "{[" else -1
            self.complete = not self._depth
        return at + 1

    def _matched(self, pattern: re.Pattern[str], text: str, at: int) -> int:
        found = pattern.match(text, at)
        assert found is not None, "a pattern that may be empty always matches"
        return found.end()
