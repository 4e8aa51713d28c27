"""Which drafted nodes a step verifies, and what one more node costs (DESIGN 5).

With R sequences, P prompt tokens and all nodes of all trees sorted by path confidence
p1 >= p2 >= ..., verifying the best N is worth

    R + p1 + ... + pN - goodput * T*(R + P + N, kv)

tokens more than doing nothing, where goodput is the long-run rate of committed tokens per second:
the renewal-reward optimum maximises gain minus rate times time, not each step's own ratio
(Dinkelbach 1967). T* is not convex, so every N is looked at.
"""

from collections.abc import Sequence

import numpy as np

from drafthouse.policy.latency import LatencyModel

PAD_LIMIT = 64
"""How far beyond n the minimum of T* is looked for."""

PRICE_SPAN = 16
"""The price is the cheapest average cost of one to so many more nodes: up to the next step of the curve."""


def step_times(latency: LatencyModel, first: int, last: int, kv_tokens: int) -> np.ndarray:
    """`T*(n)` in seconds for n = first ... last."""
    raw = np.array([latency.seconds(n, kv_tokens) for n in range(first, last + PAD_LIMIT + 1)])
    return np.minimum.accumulate(raw[::-1])[::-1][: last - first + 1]


def select(
    confidences: Sequence[float], sequences: int, prompt_tokens: int, kv_tokens: int, goodput: float, latency: LatencyModel, limit: int
) -> list[int]:
    """Indices, in order of falling confidence, of the nodes worth verifying; at most `limit`.

    `confidences` list a parent before its children, each tree in turn; the sort is stable, so the
    result is closed under parents. Goodput in tokens per second.
    """
    if not len(confidences) or limit <= 0:
        return []
    order = np.argsort(-np.asarray(confidences), kind="stable")[:limit]
    gains = np.concatenate([[0.0], np.cumsum(np.asarray(confidences)[order])])
    base = sequences + prompt_tokens
    times = step_times(latency, base, base + len(order), kv_tokens)
    best = int(np.argmax(gains - goodput * times))
    return [int(i) for i in order[:best]]


def price(tokens: int, kv_tokens: int, goodput: float, latency: LatencyModel) -> float:
    """Tokens that one more node must promise in a step of `tokens`: goodput times its share of time."""
    times = step_times(latency, tokens, tokens + PRICE_SPAN, kv_tokens)
    slopes = (times[1:] - times[0]) / np.arange(1, PRICE_SPAN + 1)
    return float(max(0.0, goodput * slopes.min()))
