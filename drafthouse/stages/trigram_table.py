"""Katz-backoff trigram over token ids: counts in a compact file, probabilities from them.

Promises: `log_probabilities` of one context sum to 1 over all tokens of the table. Discounting is
absolute: each kept continuation of a context has DISCOUNT taken off its count. The tokens that are not kept
share the probability that is left, in the proportions of the shorter context
(Katz 1987; Jurafsky and Martin, Speech and Language Processing, 3.6).
"""

import io
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from drafthouse.errors import ConfigError

DISCOUNT = 0.5
"""Taken off each kept count; about what Good-Turing takes off small ones."""

FORMAT = 1

CACHED_CONTEXTS = 256
"""Distributions after one token that stay in memory; text comes back to the same few hundred tokens."""

CACHED_BEST, FEW = 4096, 256
"""Results of `TrigramTable.best` that stay in memory, and the most tokens that one of them may have."""


class Rows(NamedTuple):
    """Contexts, ascending. Those kept after `contexts[i]` are `tokens[starts[i] : starts[i + 1]]`, with their probabilities."""

    contexts: np.ndarray
    starts: np.ndarray
    tokens: np.ndarray
    probabilities: np.ndarray

    def of(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """The kept continuations of a context and their probabilities; both empty if there are none."""
        at = int(np.searchsorted(self.contexts, context))
        if at == len(self.contexts) or self.contexts[at] != context:
            return self.tokens[:0], self.probabilities[:0]
        row = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return self.tokens[row], self.probabilities[row]


class TrigramTable:
    """`tokens` are the token ids, ascending. Inside this class a token is its index among them; contexts come in as ids."""

    def __init__(self, counts: "Counts"):
        self.tokens = counts.tokens.astype(np.int64)
        self._index = {int(token): i for i, token in enumerate(self.tokens)}
        size = len(self.tokens)
        self._single = counts.singles / counts.singles.sum()
        singles = counts.singles.astype(np.int64)
        self._pairs = _rows(counts.pairs[0], counts.pairs[1], counts.pair_counts, lambda context: singles[context])
        codes = counts.pairs[0].astype(np.int64) * size + counts.pairs[1]

        def pair_count(context: np.ndarray) -> np.ndarray:
            return counts.pair_counts[np.searchsorted(codes, context)].astype(np.int64)

        first = counts.triples[0].astype(np.int64) * size + counts.triples[1]
        self._triples = _rows(first, counts.triples[2], counts.triple_counts, pair_count)
        self._after = lru_cache(maxsize=CACHED_CONTEXTS)(self._after_one)
        self._cached_best = lru_cache(maxsize=CACHED_BEST)(self._best)

    def log_probabilities(self, context: Sequence[int]) -> np.ndarray:
        """float32 `[len(tokens)]`, of what follows the last two token ids of `context`."""
        last = self._index.get(context[-1]) if context else None
        if last is None:
            return np.log(self._single).astype(np.float32)
        shorter = self._after(last)
        before = self._index.get(context[-2]) if len(context) > 1 else None
        if before is None:
            return shorter
        return _backed_off(shorter, *self._triples.of(before * len(self.tokens) + last))

    def best(self, context: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices among `tokens` of the `count` likeliest ones, the likeliest first, and their log-probabilities. With `count` 0, or as
        many as there are: all tokens, in the order of `tokens`. Callers must not write to the arrays."""
        if not 0 < count < len(self.tokens):
            return np.arange(len(self.tokens)), self.log_probabilities(context)
        last_two = tuple(context[-2:])
        return self._cached_best(last_two, count) if count <= FEW else self._best(last_two, count)

    def _best(self, context: tuple[int, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self.log_probabilities(context)
        order = descending(scores, count)
        return order, scores[order]

    def _after_one(self, last: int) -> np.ndarray:
        return _backed_off(np.log(self._single).astype(np.float32), *self._pairs.of(last))


def descending(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest, the largest first, ties to the lowest."""
    best = np.arange(len(scores))
    if count < len(scores):
        best = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    order: np.ndarray = best[np.argsort(-scores[best], kind="stable")][:count]
    return order


def _backed_off(shorter: np.ndarray, tokens: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The kept continuations have their own probability; the rest share what is left as the shorter context has it."""
    if not len(tokens):
        return shorter
    left = max(1.0 - float(probabilities.sum()), 1e-9)
    unkept = max(1.0 - float(np.exp(shorter[tokens]).sum()), 1e-9)
    result = shorter + np.float32(np.log(left / unkept))
    result[tokens] = np.log(probabilities)
    return result


def _rows(contexts: np.ndarray, tokens: np.ndarray, counts: np.ndarray, seen: Callable[[np.ndarray], np.ndarray]) -> Rows:
    """Columns of equal length, sorted by context, to rows. `seen` says how often each context came."""
    distinct, starts = np.unique(contexts.astype(np.int64), return_index=True)
    lengths = np.diff([*starts, len(contexts)])
    totals = np.repeat(seen(distinct), lengths)
    return Rows(distinct, np.append(starts, len(contexts)), tokens.astype(np.int64), ((counts - DISCOUNT) / totals).astype(np.float32))


class Counts(NamedTuple):
    """How often single tokens came, and the pairs and triples that are kept, sorted; in them a token is its index in `tokens`.

    The first two tokens of a kept triple are a kept pair.
    """

    tokens: np.ndarray
    singles: np.ndarray
    pairs: np.ndarray  # [2, pairs]
    pair_counts: np.ndarray
    triples: np.ndarray  # [3, triples]
    triple_counts: np.ndarray


def counted(texts: Sequence[np.ndarray] | np.ndarray, least: int) -> Counts:
    """Of the token ids of texts `[length]`, which may differ in length; pairs and triples that came fewer than `least` times are left
    out. None reaches from one text into the next."""
    tokens, ids = np.unique(np.concatenate(list(texts)), return_inverse=True)
    ids, size = ids.astype(np.int64), len(tokens)
    goes_on = np.ones(len(ids) + 1, dtype=bool)  # whether a token comes after another one of its text
    goes_on[np.cumsum([0, *map(len, texts)])] = False
    goes_on = goes_on[: len(ids)]
    pairs, pair_counts = np.unique((ids[:-1] * size + ids[1:])[goes_on[1:]], return_counts=True)
    threes = (ids[:-2] * size + ids[1:-1]) * size + ids[2:]
    triples, triple_counts = np.unique(threes[goes_on[1:-1] & goes_on[2:]], return_counts=True)
    pairs, pair_counts = pairs[pair_counts >= least], pair_counts[pair_counts >= least]
    triples, triple_counts = triples[triple_counts >= least], triple_counts[triple_counts >= least]
    return Counts(
        tokens, np.bincount(ids), np.stack(np.divmod(pairs, size)), pair_counts,
        np.stack([triples // size**2, triples // size % size, triples % size]), triple_counts,
    )  # fmt: skip


def packed(counts: Counts) -> bytes:
    """The file. Sorted columns are stored as differences and each number in as few bytes as it takes: both pack well."""
    columns = {"format": np.array(FORMAT), "tokens": np.diff(counts.tokens, prepend=0), "singles": counts.singles}
    columns |= {"pair_counts": counts.pair_counts, "triple_counts": counts.triple_counts}
    columns |= {f"pairs_{i}": np.diff(row, prepend=0) if i == 0 else row for i, row in enumerate(counts.pairs)}
    columns |= {f"triples_{i}": np.diff(row, prepend=0) if i == 0 else row for i, row in enumerate(counts.triples)}
    smallest = {name: column.astype(np.min_scalar_type(int(column.max(initial=0)))) for name, column in columns.items()}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **smallest)
    return file.getvalue()


def load(path: pathlib.Path, vocab_size: int) -> TrigramTable:
    """Raises ConfigError that names the file, also when it holds a token outside a vocabulary of `vocab_size`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                raise ConfigError(f"{path}: a trigram table of format {int(file['format'])}, this version reads {FORMAT}")
            pairs = np.stack([np.cumsum(file["pairs_0"], dtype=np.int64), file["pairs_1"]])
            triples = np.stack([np.cumsum(file["triples_0"], dtype=np.int64), file["triples_1"], file["triples_2"]])
            tokens = np.cumsum(file["tokens"], dtype=np.int64)
            if len(tokens) and tokens[-1] >= vocab_size:
                raise ConfigError(f"{path}: holds token {tokens[-1]}, outside the vocabulary of {vocab_size}; it is another model's table")
            counts = Counts(tokens, file["singles"], pairs, file["pair_counts"], triples, file["triple_counts"])
        return TrigramTable(counts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: no trigram table: {error}; `drafthouse build-trigram` makes one") from error
