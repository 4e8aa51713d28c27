"""How a model writes calls, as a grammar in Lark: what it must write where calls are required.

Promises: a text of the grammar, and none other of its form, is read as these calls by the parser of the same format.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drafthouse.sampling import JSON_FORM

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}

Tag = Callable[[str], str]
"""From a tag of the model to Lark: a control token, or the text where it is none."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """Pieces of text around a call's name and its arguments, between two calls, and before and behind all of them, where there may be
    `several`. Those that `tags` names may be control tokens."""

    before: tuple[str, ...]
    middle: tuple[str, ...]
    after: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    lists_one: bool = False  # `first` and `last` stand around one call as well

    def lark(self, tools: Sequence[tuple[str, Mapping[str, Any] | None]], several: bool, tag: Tag, answer: Mapping[str, Any] | None) -> str:
        """The grammar of one call or several of these (name, JSON schema of the arguments); with an `answer` the output may be one of that
        schema instead."""

        def written(pieces: Sequence[str]) -> str:
            return " ".join(tag(piece) if piece in self.tags else json.dumps(piece, ensure_ascii=False) for piece in pieces)

        more = f" ({written(self.between)} call)*" if several else ""
        first, last = (written(each) if several or self.lists_one else "" for each in (self.first, self.last))
        rules = [
            "start: calls | answer" if answer is not None else "start: calls",
            f"calls: {first} call{more} {last}",
            "call: " + " | ".join(f"call_{i}" for i in range(len(tools))),
        ]
        for i, (name, schema) in enumerate(tools):
            arguments = _json_rule(schema or NO_ARGUMENTS)
            rules.append(f"call_{i}: {written(self.before)} {json.dumps(name)} {written(self.middle)} {arguments} {written(self.after)}")
        return "\n".join([*rules, *([f"answer: {_json_rule(answer)}"] if answer is not None else [])])


def _json_rule(schema: Mapping[str, Any]) -> str:
    """White space as in all JSON that a grammar describes."""
    return "%json " + json.dumps({**schema, "x-guidance": JSON_FORM}, ensure_ascii=False)
