"""Calls as Mistral's models write them, behind the control token [TOOL_CALLS].

Older ones: [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]. Newer ones, once for each call: [TOOL_CALLS]name[ARGS]{...}, with
[CALL_ID] and an id before [ARGS] in some, and without [ARGS] in others.
"""

import re

from deployments.parsers.call_form import CallForm
from deployments.parsers.call_list import CallList
from deployments.parsers.json_value import JsonValue
from deployments.parsers.markers import MarkedText
from deployments.parsers.parsed import CallDelta, Parsed, ToolParser

CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
LISTED = CallForm(
    ('{"name": "',), ('", "arguments": ',), ("}",), (", ",), (CALLS, " ["), ("]",), frozenset({CALLS}), lists_one=True
)  # fmt: skip
NAMED = CallForm((CALLS,), (ARGS,), tags=frozenset({CALLS, ARGS}))
OBJECTS = re.compile(r"\s*(?=\[\s*\{|\{)")
HEAD = re.compile(r"\s*([\w.$/:-]+)\s*(?:\[CALL_ID\]\s*[\w-]*\s*)?(?:\[ARGS\]\s*)?(?=\{)")
"""Of a newer call: what stands before its arguments."""
UNDECIDED = re.compile(r"[\s\w.$/:\[\]-]*")
MAX_HEAD = 256
"""Characters. What is longer is no call."""


class MistralParser(ToolParser):
    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self._text = MarkedText(CALLS)
        self._lead = ""
        self._head: str | None = None  # what has come since [TOOL_CALLS], while its form is not known
        self._list: CallList | None = None
        self._arguments: JsonValue | None = None

    @property
    def in_call(self) -> bool:
        return self._arguments is not None or (self._list is not None and self._list.begun)

    def feed(self, text: str) -> Parsed:
        parsed = Parsed()
        while text:
            if self._list is not None:
                found, text = self._in_list(self._list, text)
            elif self._arguments is not None:
                found, text = self._in_arguments(self._arguments, text)
            elif self._head is not None:
                found, text = self._in_head(self._head + text)
            else:
                content, self._lead, text = self._text.feed(text)
                self._head = "" if self._lead else None
                found = Parsed(content)
            parsed += found
        return parsed

    def flush(self) -> Parsed:
        if self._list is not None:
            held = self._list.flush()
            return Parsed(self._said(self._list) + held if held else "")
        if self._head is not None:
            return Parsed(self._lead + self._head)
        held = self._text.flush()
        return Parsed(held if held.strip() or not self.complete else "")

    def _in_head(self, head: str) -> tuple[Parsed, str]:
        self._head = None
        if objects := OBJECTS.match(head):
            self._list = CallList(self.complete)
            self._lead += head[: objects.end()]
            return Parsed(), head[objects.end() :]
        found = HEAD.match(head)
        if found and found.end() <= MAX_HEAD:
            self._arguments = JsonValue("{")
            return Parsed(calls=(CallDelta(self.complete, found[1]),)), head[found.end() :]
        if len(head) <= MAX_HEAD and UNDECIDED.fullmatch(head):
            self._head = head
            return Parsed(), ""
        return Parsed(self._lead), head

    def _in_list(self, calls: CallList, text: str) -> tuple[Parsed, str]:
        before = calls.complete
        deltas, rest = calls.feed(text)
        self.complete += calls.complete - before
        if rest is None:
            return Parsed(calls=deltas), ""
        self._list = None
        return Parsed(self._said(calls), calls=deltas), rest

    def _said(self, calls: CallList) -> str:
        """The marker is content where no call followed."""
        return "" if calls.complete else self._lead

    def _in_arguments(self, value: JsonValue, text: str) -> tuple[Parsed, str]:
        end = value.take(text, 0)
        delta = CallDelta(self.complete, "", text[:end])
        if value.complete:
            self._arguments = None
            self.complete += 1
        return Parsed(calls=(delta,) if end else ()), text[end:]
