"""Calls as JSON objects one after another, in a list or not, in a text that comes in pieces."""

from deployments.parsers.json_call import JsonCall
from deployments.parsers.json_value import SPACE
from deployments.parsers.parsed import CallDelta


class CallList:
    """From `[` or `{` on. An object that is no call ends it. `complete`: the calls that have ended."""

    def __init__(self, first: int, names: frozenset[str] | None = None, needs_arguments: bool = False, separators: str = ",") -> None:
        """`first`: the index of the first call; `separators` may stand between two objects."""
        self._names, self._needs_arguments, self._separators = names, needs_arguments, SPACE + separators
        self._index, self.complete = first, 0
        self._call: JsonCall | None = None
        self._listed: bool | None = None  # None: nothing has come yet
        self._between = ""  # is content if no call follows

    @property
    def begun(self) -> bool:
        return self.complete > 0 or (self._call is not None and self._call.begun)

    def feed(self, text: str) -> tuple[tuple[CallDelta, ...], str | None]:
        """(deltas, what no longer belongs to it); None: it goes on."""
        deltas: list[CallDelta] = []
        while text:
            if self._call is None:
                text, rest = self._outside(text)
                if rest is not None:
                    return tuple(deltas), rest
                continue
            delta, text = self._inside(self._call, text)
            if delta is not None:
                deltas.append(delta)
            if self._call.failed:
                return tuple(deltas), self._between + self._call.raw + text
            if self._call.ended:
                self._call = None
                self._index += 1
                self.complete += 1
        return tuple(deltas), None

    def flush(self) -> str:
        """What is content after all, now that no more text comes."""
        raw = self._call.raw if self._call is not None and not self._call.begun else ""
        return (self._between + raw) if raw or not self.complete else ""

    def _outside(self, text: str) -> tuple[str, str | None]:
        """(text from the next object on, None), or ("", what no longer belongs to the list)."""
        bare = text.lstrip(self._separators)
        if self._listed is None and bare.startswith("["):
            bare = bare[1:].lstrip(self._separators)
            self._listed = True
        self._between += text[: len(text) - len(bare)]
        if bare.startswith("{"):
            self._listed = bool(self._listed)
            self._call = JsonCall(self._names, self._needs_arguments)
        elif bare.startswith("]") and self._listed and self.complete:
            return "", bare[1:]
        elif bare:
            return "", self._between + bare
        return bare, None

    def _inside(self, call: JsonCall, text: str) -> tuple[CallDelta | None, str]:
        begun = call.begun
        arguments, text = call.feed(text)
        if call.begun and not begun:
            self._between = ""
            return CallDelta(self._index, call.name, arguments), text
        return CallDelta(self._index, "", arguments) if arguments else None, text
