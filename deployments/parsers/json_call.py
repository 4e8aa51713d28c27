"""One call as a JSON object, {"name": ..., "arguments": {...}}, in a text that comes in pieces.

Promises: the call begins when its name and the beginning of its arguments are known, in whichever order they stand;
from then on the arguments go out as they come, as the model wrote them. An object that is no call has no part in the output.
"""

import json
from enum import Enum, auto

from deployments.parsers.json_value import SPACE, JsonValue

ARGUMENTS = ("arguments", "parameters")
"""Hermes, Mistral and OpenAI have the first name, Llama 3 the second."""


class _At(Enum):
    OPENING = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    COMMA = auto()
    END = auto()


class JsonCall:
    """`name` is empty until the call begins. `failed`: it is no call, and `raw` is all of it; `ended`: nothing more belongs to it."""

    def __init__(self, names: frozenset[str] | None, needs_arguments: bool) -> None:
        """`names`: a call of another name is none; None: any will do. `needs_arguments`: an object without them is no call."""
        self._names, self._needs_arguments = names, needs_arguments
        self.name, self.raw = "", ""
        self.failed = self.ended = False
        self._at = _At.OPENING
        self._value: JsonValue | None = None
        self._text = ""  # of the key or value that is being read
        self._key = ""
        self._said_name = ""
        self._pending: str | None = None  # arguments before the name is known
        self._has_arguments = False

    @property
    def begun(self) -> bool:
        return bool(self.name)

    def feed(self, text: str) -> tuple[str, str]:
        """(new text of the arguments, what no longer belongs to the object). Once `failed`, what is fed is in neither."""
        at, arguments = 0, ""
        while at < len(text) and not self.failed and not self.ended:
            if self._value is not None:
                end = self._value.take(text, at)
                arguments += self._grown(text[at:end])
                if self._value.complete:
                    arguments += self._completed()
                at = end
            elif text[at] in SPACE:
                at += 1
            else:
                at = self._punctuation(text, at)
        if not self.begun:
            self.raw += text[:at]
        if self.failed:
            return "", text[at:]
        if self.ended and not self.begun:
            arguments += self._begin_without_arguments()
        return arguments, text[at:]

    def _punctuation(self, text: str, at: int) -> int:
        """One character that is not white space, outside of keys and values."""
        char = text[at]
        match self._at:
            case _At.OPENING if char == "{":
                self._at = _At.KEY
            case _At.KEY if char == '"':
                self._value, self._text = JsonValue(char), ""
                return at
            case _At.KEY if char == "}":  # of an object without keys, or after one comma too many
                self.ended = True
            case _At.COLON if char == ":":
                self._at = _At.VALUE
            case _At.VALUE if char not in ",:}]<":
                self._value, self._text = JsonValue(char), ""
                return at
            case _At.COMMA if char == ",":
                self._at = _At.KEY
            case _At.COMMA if char == "}":
                self.ended = True
            case _ if self.begun:  # what is wrong behind the arguments ends the call
                self.ended = True
                return at
            case _:
                self.failed = True
                return at
        return at + 1

    def _grown(self, text: str) -> str:
        """Takes more of the value that is read; arguments that may go out."""
        streams = self._at is _At.VALUE and self._key in ARGUMENTS and self._value is not None and self._value.kind in "{["
        if not streams:
            self._text += text
            return ""
        return self._add_arguments(text)

    def _add_arguments(self, text: str) -> str:
        if self._has_arguments:  # a second key of the kind
            return ""
        if self.begun:
            return text
        self._pending = (self._pending or "") + text
        return self._begin() if self._said_name else ""

    def _begin(self) -> str:
        self.name, pending, self._pending = self._said_name, self._pending or "", None
        return pending

    def _completed(self) -> str:
        value, self._value = self._value, None
        if self._at is _At.KEY:
            self._key, self._at = _decoded(self._text) or "", _At.COLON
            return ""
        self._at = _At.COMMA
        assert value is not None
        if self._key == "name" and not self.begun:
            return self._named(_decoded(self._text))
        if self._key not in ARGUMENTS:
            return ""
        arguments = "" if value.kind in "{[" else self._add_arguments(_as_arguments(self._text))
        self._has_arguments = True
        return arguments

    def _named(self, name: str | None) -> str:
        if not name or (self._names is not None and name not in self._names):
            self.failed = True
            return ""
        self._said_name = name
        return self._begin() if self._pending is not None else ""

    def _begin_without_arguments(self) -> str:
        if not self._said_name or self._needs_arguments:
            self.failed = True
            return ""
        self.name = self._said_name
        return "{}"


def _decoded(text: str) -> str | None:
    """None for what is no JSON string, or one with half of a surrogate pair, which no answer can hold."""
    try:
        value = json.loads(text, strict=False)
        str(value).encode()
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _as_arguments(text: str) -> str:
    """Arguments that came as a string hold the JSON text within, as OpenAI's API writes them; null are none."""
    return "{}" if text == "null" else _decoded(text) or text
