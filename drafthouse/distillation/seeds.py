"""Prompts that ship with the command: templates over lists of topics, tasks and texts, in `seeds.json`.

Promises: which prompt comes of which numbers is fixed, on every machine. A template's `<<list>>` stands for an entry of that list,
which may be a template itself.
"""

import json
import pathlib
import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from drafthouse.noise import mix64

KINDS = ("chat", "code", "summary", "edit", "translation", "json")

SLOT = re.compile(r"<<(\w+)>>")

Entry = TypeVar("Entry")


class Draws:
    """Picks that depend on the numbers it is made with, and on how many came before."""

    def __init__(self, *numbers: int):
        self._state = 0
        for number in numbers:
            self._state = mix64(self._state + number + 1)

    def pick(self, entries: Sequence[Entry]) -> Entry:
        self._state = mix64(self._state + 1)
        return entries[self._state % len(entries)]

    def one_in(self, count: int) -> bool:
        return self.pick(range(count)) == 0


class Seeds(BaseModel):
    """`kinds`: templates of a user's text, by kind; `follow_ups`: of a second one, after an answer; `openings`: how a user's text may
    begin that the target writes; `beginnings`: of texts, for a model without a chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: dict[str, list[str]]
    follow_ups: list[str]
    openings: list[str]
    beginnings: list[str]
    lists: dict[str, list[str]]

    def compose(self, templates: Sequence[str], draws: Draws) -> str:
        """One of `templates`, its slots filled."""
        return self._filled(draws.pick(templates), draws)

    def _filled(self, template: str, draws: Draws) -> str:
        return SLOT.sub(lambda slot: self._filled(draws.pick(self.lists[slot[1]]), draws), template)


@cache
def shipped_seeds() -> Seeds:
    return Seeds.model_validate(json.loads(pathlib.Path(__file__).with_name("seeds.json").read_text(encoding="utf-8")))
