"""Which tokens may be chosen, which are likelier than they were, and which must not be chosen here.

Promises: ids that this model does not have are left out: a draft's vocabulary may be smaller than its target's.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from drafthouse.processors.edits import WORD_BITS, Edits
from drafthouse.processors.processor import LogitsProcessor, Path, PathProcessor


class AllowedTokens(LogitsProcessor):
    """No other token may be chosen anywhere. Where a draft has none of them it says nothing: its target decides.

    Many are a mask, which costs a row a bit for each token of the vocabulary and not 16 bytes for each of them."""

    def __init__(self, allowed: Sequence[int], vocab_size: int):
        tokens = np.unique(np.array(allowed, dtype=np.int64))
        self._tokens = tokens[tokens < vocab_size]
        words = -(-vocab_size // WORD_BITS)
        flags = np.zeros(words * WORD_BITS, dtype=bool)
        flags[self._tokens] = True
        many = len(self._tokens) > words
        self._words = np.packbits(flags, bitorder="little").view("<u4") if many else None

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        rows = np.arange(first, first + len(paths))
        if self._words is not None:
            edits.mask(rows, np.broadcast_to(self._words, (len(rows), len(self._words))))
        elif len(self._tokens):
            edits.keep_only(rows, self._tokens)

    def commit(self, tokens: Sequence[int]) -> None:
        """The same everywhere."""


class LogitBias(LogitsProcessor):
    """Adds the same to the same tokens everywhere."""

    def __init__(self, bias: Sequence[tuple[int, float]], vocab_size: int):
        known = [(token, value) for token, value in bias if token < vocab_size]
        self._tokens = np.array([token for token, _ in known], dtype=np.int64)
        self._values = np.array([value for _, value in known], dtype=np.float32)

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        rows = np.repeat(np.arange(first, first + len(paths)), len(self._tokens))
        edits.add(rows, np.tile(self._tokens, len(paths)), np.tile(self._values, len(paths)))

    def commit(self, tokens: Sequence[int]) -> None:
        """The same everywhere."""


class MinTokens(LogitsProcessor):
    """The tokens that would end the text must not be chosen before it has `least` output tokens, delivered ones included."""

    def __init__(self, least: int, stop_tokens: Sequence[int], output_tokens: int, vocab_size: int):
        self._stops = np.array(sorted({token for token in stop_tokens if token < vocab_size}), dtype=np.int64)
        self._left = least - output_tokens

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        early = [row for row, path in enumerate(paths, start=first) if len(path) < self._left]
        if early and len(self._stops):
            edits.drop(np.repeat(early, len(self._stops)), np.tile(self._stops, len(early)))

    def commit(self, tokens: Sequence[int]) -> None:
        self._left -= len(tokens)


class BadWords(PathProcessor):
    """The last token of a word must not be chosen where the tokens before it stand at the end of the text, prompt included."""

    def __init__(self, words: Sequence[tuple[int, ...]], tokens: Sequence[int], vocab_size: int):
        known = [word for word in words if max(word) < vocab_size]
        self._single = np.array(sorted({word[0] for word in known if len(word) == 1}), dtype=np.int64)
        self._longer: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)  # by all tokens before the forbidden one
        for word in known:
            if len(word) > 1:
                self._longer[word[:-1]].append(word[-1])
        self._lengths = sorted({len(before) for before in self._longer})
        self._reach = max((len(word) - 1 for word in known), default=0)
        self._tail: list[int] = []
        self.commit(tokens[max(0, len(tokens) - self._reach) :])

    def advance(self, token: int) -> None:
        self._tail.append(token)

    def rollback(self, count: int) -> None:
        if count:
            del self._tail[-count:]

    def commit(self, tokens: Sequence[int]) -> None:
        super().commit(tokens)
        del self._tail[: max(0, len(self._tail) - self._reach)]

    def edit_row(self, edits: Edits, row: int) -> None:
        tail = self._tail
        begun = [tuple(tail[-length:]) for length in self._lengths if length <= len(tail)]
        forbidden = sorted({last for before in begun for last in self._longer.get(before, ())})
        tokens = np.concatenate([self._single, np.array(forbidden, dtype=np.int64)])
        if len(tokens):
            edits.drop(np.full(len(tokens), row), tokens)
