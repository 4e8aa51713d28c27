"""Calls as Hermes and Qwen write them: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, anywhere in the text."""

from deployments.parsers.call_form import CallForm
from deployments.parsers.json_call import JsonCall
from deployments.parsers.markers import Expected, MarkedText
from deployments.parsers.parsed import CallDelta, Parsed, ToolParser

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FORM = CallForm((OPEN, '\n{"name": "'), ('", "arguments": ',), ("}\n", CLOSE), between=("\n",), tags=frozenset({OPEN, CLOSE}))


class HermesParser(ToolParser):
    """A missing end tag ends nothing but the call before it. A name that no tool has is a call, too: the tags leave no doubt."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self._text = MarkedText(OPEN)
        self._lead = ""
        self._call: JsonCall | None = None
        self._close: Expected | None = None

    @property
    def in_call(self) -> bool:
        return self._close is not None or (self._call is not None and self._call.begun)

    def feed(self, text: str) -> Parsed:
        parsed = Parsed()
        while text:
            if self._call is not None:
                found, text = self._in_call(self._call, text)
                parsed += found
            elif self._close is not None:
                after = self._close.feed(text)
                if after is None:
                    break
                self._close, text = None, after[2]
            else:
                content, self._lead, text = self._text.feed(text)
                self._call = JsonCall(None, needs_arguments=False) if self._lead else None
                parsed += Parsed(content)
        return parsed

    def flush(self) -> Parsed:
        if self._call is not None:
            return Parsed("" if self._call.begun else self._lead + self._call.raw)
        held = self._text.flush()  # an end tag that is cut off is no content
        return Parsed(held if held.strip() or not self.complete else "")

    def _in_call(self, call: JsonCall, text: str) -> tuple[Parsed, str]:
        begun = call.begun
        arguments, text = call.feed(text)
        if call.failed:
            self._call = None
            return Parsed(self._lead + call.raw), text
        name = "" if begun else call.name
        delta = (CallDelta(self.complete, name, arguments),) if name or arguments else ()
        if call.ended:
            self._call, self._close = None, Expected(CLOSE)
            self.complete += 1
        return Parsed(calls=delta), text
