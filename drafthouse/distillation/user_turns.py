"""Which of the turns that a target wrote in the user's place are worth an answer."""

from collections.abc import Sequence

LEAST_CHARACTERS, MOST_CHARACTERS = 8, 1200
GRAM = 4
LEAST_DISTINCT = 0.7
"""Of the runs of GRAM tokens: a turn that repeats itself has fewer that differ."""

LEAST_LETTERS = 0.5
"""Of the characters that are no space."""


def _is_repetitive(tokens: Sequence[int]) -> bool:
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return len(grams) > 0 and len(set(grams)) < LEAST_DISTINCT * len(grams)


def is_usable(text: str, tokens: Sequence[int]) -> bool:
    """Neither empty nor too long, no repetition, mostly letters."""
    letters, written = sum(map(str.isalpha, text)), sum(not character.isspace() for character in text)
    return (
        LEAST_CHARACTERS <= len(text) <= MOST_CHARACTERS
        and letters >= LEAST_LETTERS * written
        and "\ufffd" not in text
        and not _is_repetitive(tokens)
    )
