"""Which tokens the draft's head knows: those that the target chooses most.

A token outside is not drafted, which costs nothing but that token; the head's rows are most of a small draft's work (FR-Spec,
arXiv 2502.14856).
"""

from collections.abc import Iterable

import numpy as np

from drafthouse.distillation.shards import Text


def token_weights(texts: Iterable[Text], vocab_size: int) -> np.ndarray:
    """float64 `[vocab_size]`: how often the target chose each token, plus how often it would have by its probabilities."""
    weights = np.zeros(vocab_size)
    for text in texts:
        rows = text.rows
        np.add.at(weights, text.tokens[rows.start + 1 :], 1.0)
        np.add.at(weights, text.top_ids[rows].ravel(), np.exp(text.top_logprobs[rows].astype(np.float32)).ravel())
    return weights


def choose_head_ids(weights: np.ndarray, always: Iterable[int], most: int) -> np.ndarray:
    """int32, ascending: at most `most` tokens, those of `always` that occur and then the heaviest; ties to the lowest id."""
    first = [token for token in sorted({*always}) if 0 <= token < len(weights) and weights[token] > 0]
    order = np.argsort(-weights, kind="stable")
    rest = order[(weights[order] > 0) & ~np.isin(order, first)]
    return np.sort(np.concatenate([np.array(first, dtype=np.int64), rest])[:most]).astype(np.int32)
