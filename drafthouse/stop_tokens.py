"""Where a stop token ends an output."""

from collections.abc import Container
from typing import TypeVar

Tokens = TypeVar("Tokens", list[int], tuple[int, ...])


def cut_at_stop(tokens: Tokens, stop_tokens: Container[int]) -> tuple[Tokens, bool]:
    """`tokens` up to the first stop token, that one included; and whether there is one."""
    for count, token in enumerate(tokens, start=1):
        if token in stop_tokens:
            return tokens[:count], True
    return tokens, False
