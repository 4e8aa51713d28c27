"""When requests arrive and what they ask for: the trace that every policy is given alike.

Promises: pure; a trace is a function of its arguments, so that policies, runs and machines meet the
same one. Gaps are exponential, as of a Poisson process, but the number of requests is given: two
traces of one length hold equal work up to the drawn output lengths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drafthouse.errors import ConfigError

MAX_REQUESTS = 20_000
"""Of one trace: more than this client could keep apart."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is due `at_s` seconds after the block began, for at most `tokens` tokens after prompt number `prompt`."""

    at_s: float
    prompt: int
    tokens: int
    seed: int


def poisson(rate: float, count: int, prompts: int, tokens: tuple[int, int], seed: Sequence[int]) -> list[Arrival]:
    """`count` arrivals at `rate` per second; lengths evenly within `tokens`, both ends included. `seed` may be any integers."""
    rng = np.random.default_rng(list(seed))
    gaps = rng.exponential(1.0 / rate, count)
    gaps[0] = 0.0  # the block begins with its first request
    due, chosen = np.cumsum(gaps), rng.integers(prompts, size=count)
    lengths, seeds = rng.integers(tokens[0], tokens[1] + 1, size=count), rng.integers(1 << 31, size=count)
    return [Arrival(float(t), int(p), int(n), int(s)) for t, p, n, s in zip(due, chosen, lengths, seeds, strict=True)]


def requests_in(rate: float, seconds: float) -> int:
    """How many requests a trace of `seconds` holds. Raises ConfigError naming the options whose product is impossible."""
    count = rate * seconds
    if count < 1.0:
        raise ConfigError(f"--seconds: at {rate:.3g} requests per second a trace of {seconds:.3g} s is empty; make it longer")
    if count > MAX_REQUESTS:
        raise ConfigError(f"--loads, --seconds: {rate:.3g} requests per second for {seconds:.3g} s are more than {MAX_REQUESTS}")
    return round(count)


def affordable_seconds(wanted: float, left_s: float, blocks: int, idle_s: float) -> float:
    """The longest trace up to `wanted` with which `blocks` of them, and `idle_s` after each, end within `left_s`; at least a second."""
    assert blocks > 0
    return max(1.0, min(wanted, left_s / blocks - idle_s)) if math.isfinite(left_s) else wanted
