"""From conversations to the token ids that a target reads, and to where a user's turn begins and ends in its chat template."""

from collections.abc import Callable, Sequence
from typing import Any

from drafthouse.distillation.prompts import Message
from drafthouse.errors import ModelError

MARK = "\ue010\ue011"
"""Stands for a user's text: no template writes or changes private-use characters."""

Render = Callable[[Sequence[Message]], str]
"""A conversation as the chat template writes it, up to where the assistant begins."""


class PromptEncoder:
    """`render`: None for a model without a chat template. Raises ModelError where the template loses a user's text."""

    def __init__(self, tokenizer: Any, render: Render | None, stop_tokens: Sequence[int]):
        self._tokenizer, self._render, self.stop_tokens = tokenizer, render, frozenset(stop_tokens)
        self._before, self.turn_stops = "", self.stop_tokens
        if render is not None:
            self._before, mark, after = render([{"role": "user", "content": MARK}]).partition(MARK)
            if not mark:
                raise ModelError("the chat template leaves out the text of user messages; distill cannot use it")
            self.turn_stops |= set(self._ids(after)[:1])
        self._special = frozenset(tokenizer.all_special_ids)

    @property
    def chat(self) -> bool:
        return self._render is not None

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Up to where the assistant's answer begins."""
        assert self._render is not None
        return self._ids(self._render(messages))

    def turn(self, opening: str) -> list[int]:
        """Up to where the target goes on with a user's text that begins with `opening`."""
        return self._ids(self._before + opening)

    def beginning(self, text: str) -> list[int]:
        """Of a text, with what the tokenizer puts before it; at least one token."""
        ids: list[int] = self._tokenizer.encode(text)
        start = self._tokenizer.bos_token_id
        start = self._tokenizer.eos_token_id if start is None else start
        if text and ids and ids[-1] in self.stop_tokens and ids[-1] != start:
            ids = ids[:-1]  # some tokenizers end what they encode
        return ids or [0 if start is None else start]

    def written(self, tokens: Sequence[int]) -> str | None:
        """The text of what the target wrote, without a stop token at its end; None where a special token stands within it."""
        ends = len(tokens) > 0 and tokens[-1] in self.turn_stops
        body = tokens[:-1] if ends else tokens
        if self._special.intersection(body):
            return None
        text: str = self._tokenizer.decode(body)
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
