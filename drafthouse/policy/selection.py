"""Which drafted nodes a step verifies, and what one more node costs (docs/design.md 5).

With R sequences, P prompt tokens and all nodes of all trees sorted by path confidence
p1 >= p2 >= ..., verifying the best N is worth

    R + p1 + ... + pN - v * T(R + P + N, kv)

tokens more than doing nothing, where `v` (`value_of_a_second`) is the long-run rate of committed tokens per second:
the renewal-reward optimum maximises gain minus rate times time, not each step's own ratio
(Dinkelbach 1967). T is not convex, so every N is looked at. It is the step as it will run: no runner pads, so where a curve dips
nodes alone can reach the dip.
"""

from collections.abc import Sequence

import numpy as np

from drafthouse.policy.latency import LatencyModel

PRICE_SPAN = 16
"""The price is the cheapest average cost of one to so many more nodes: up to the next step of the curve."""


def select(
    confidences: Sequence[float] | np.ndarray,
    sequences: int,
    prompt_tokens: int,
    kv_tokens: int,
    value_of_a_second: float,
    latency: LatencyModel,
    limit: int,
) -> np.ndarray:
    """Indices (int64), in order of falling confidence, of the nodes worth verifying; at most `limit`, and none of confidence 0.

    `confidences` list a parent before its children, each tree in turn; of equal ones the first is
    taken first, so the result is closed under parents. Goodput in tokens per second.
    """
    values = np.asarray(confidences, dtype=np.float64)
    count = min(int(np.count_nonzero(values > 0.0)), limit)  # the others are not to be verified, even where a dip would pay for them
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    order = _falling(values, count)
    gains = np.concatenate([[0.0], np.cumsum(values[order])])
    base = sequences + prompt_tokens
    times = latency.times(base, base + count, kv_tokens)
    best = int(np.argmax(gains - value_of_a_second * times))
    return order[:best]


def _falling(values: np.ndarray, count: int) -> np.ndarray:
    """The first `count` indices of a stable sort by falling value.

    numpy's stable sort of floats takes four times as long as its vectorised unstable one. So the
    latter, after which the indices of each run of equal values are put in order: run number times n
    plus index is a key that differs for all, and runs stay where they are.
    """
    n = len(values)
    least = np.partition(values, n - count)[n - count]
    ranked = np.flatnonzero(values >= least)
    ranked = ranked[np.argsort(-values[ranked])]
    sorted_values = values[ranked]
    runs = np.zeros(len(ranked), dtype=np.int64)
    np.cumsum(sorted_values[1:] != sorted_values[:-1], out=runs[1:])
    runs *= n
    return (np.sort(runs + ranked) - runs)[:count]


def price(tokens: int, kv_tokens: int, value_of_a_second: float, latency: LatencyModel) -> float:
    """Tokens that one more node must promise in a step of `tokens`: what its share of the time is worth."""
    times = latency.times(tokens, tokens + PRICE_SPAN, kv_tokens)
    slopes = (times[1:] - times[0]) / np.arange(1, PRICE_SPAN + 1)
    return float(max(0.0, value_of_a_second * slopes.min()))
