"""Which tokens of a row may be among its best once noise is added, without drawing the noise of all.

Promises: what it gives holds every token whose perturbed score is at least that of the best `count`, and with each its perturbed score,
the same bits as from the noise of the whole vocabulary. The smaller a hash, the larger its noise: with `v` the hash as a fraction,
`g = -log(-log1p(-v)) <= -log v`, so a token reaches the score `least` only if `score - log v` does. Hashes and one logarithm in float32
take a third of the time of the two in float64, which only some tokens need then.
"""

import math
from functools import cache

import numpy as np
import torch

from drafthouse.noise import gumbel_of_words, hashes, token_terms

SLACK, SLACK_SHARE = 1e-3, 1e-6
"""What a token may come short by, and a share of the largest score: more than float32 rounds away of hashes, exponentials and sums."""

ROUNDED = 40 * math.log(2)
"""Of a hash that may have more noise the fraction that it is drawn from is rounded by more than the slack. One in 2**40 is such a one."""

MOST_THREADS = 4
"""With more of them torch draws the noise of whole rows sooner: what is done here runs on one thread."""

Contenders = list[tuple[np.ndarray, np.ndarray]]
"""Of each row columns, ascending, and their perturbed scores."""


def are_found_sooner(scores: torch.Tensor) -> bool:
    """Than the noise of all is drawn."""
    return scores.device.type == "cpu" and torch.get_num_threads() <= MOST_THREADS


def contenders(scores: np.ndarray, keys: np.ndarray, count: int, ids: np.ndarray | None) -> Contenders | None:
    """Of scores after temperature, float32 `[N, columns]`, and keys int64 `[N]`. With `ids`, int64, columns are those tokens. None where
    nothing bounds a row: it has fewer than `count` finite scores, or some that are no numbers."""
    terms = _terms(scores.shape[1]) if ids is None else token_terms(ids)
    each, best = np.arange(len(scores))[:, None], _best(scores, count)
    drawn = {key: hashes(key, terms) for key in set(keys.tolist())}  # the nodes of one depth of a tree share theirs
    words = [drawn[key] for key in keys.tolist()]
    firsts = scores[each, best]
    least = (firsts + gumbel_of_words(np.stack([mine[some] for mine, some in zip(words, best, strict=True)]))).min(1)
    bounds = {key: _bounds(mine) for key, mine in drawn.items()}
    if not np.isfinite(least).all() or any(bound.max() > ROUNDED for bound in bounds.values()):
        return None
    least -= SLACK + SLACK_SHARE * (abs(firsts.max(1)) + abs(least))
    found = [_true_at(row + bounds[key] >= lowest) for row, key, lowest in zip(scores, keys.tolist(), least, strict=True)]
    noise = gumbel_of_words(np.concatenate([mine[some] for mine, some in zip(words, found, strict=True)]))
    values = np.split(noise, np.cumsum([len(some) for some in found])[:-1])
    return [(some, row[some] + mine) for row, some, mine in zip(scores, found, values, strict=True)]


def _bounds(words: np.ndarray) -> np.ndarray:
    """What the noise of each hash is at most, float32. A signed half is made a float in a sixth of an unsigned word's time."""
    fractions = (words >> np.uint64(1)).view(np.int64).astype(np.float32)
    with np.errstate(divide="ignore"):
        np.log(fractions, out=fractions)
    return np.subtract(np.float32(63 * math.log(2)), fractions, out=fractions)


def _true_at(mask: np.ndarray) -> np.ndarray:
    """Where a long row of bools is true, which it seldom is: eight at a time."""
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(np.uint64).nonzero()[0]
    near = (8 * words[:, None] + np.arange(8)).ravel()
    return np.concatenate([near[mask[near]], whole + mask[whole:].nonzero()[0]])


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the best `count` of each row before noise, `[N, count]`."""
    if count == 1:
        return scores.argmax(1)[:, None]
    first = scores.shape[1] - count
    return np.argpartition(scores, first, axis=1)[:, first:]


@cache
def _terms(vocab_size: int) -> np.ndarray:
    return token_terms(np.arange(vocab_size))


def ranked(row: tuple[np.ndarray, np.ndarray], count: int, ids: np.ndarray | None) -> tuple[list[int], list[float]]:
    """The best `count` tokens of a row of contenders, of equal ones the lower id first, and their scores."""
    columns, values = row
    order = np.argsort(-values, kind="stable")[:count]
    tokens = columns[order] if ids is None else ids[columns[order]]
    return tokens.tolist(), values[order].tolist()
