"""Latency models for the policy's tests: any shape of curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class Table:
    """Seconds of a step of 0, 1, 2 ... tokens; the last one holds for all beyond."""

    points: Sequence[float]
    per_kv_token: float = 0.0

    def seconds(self, tokens: int, kv_tokens: int) -> float:
        return self.points[min(tokens, len(self.points) - 1)] + self.per_kv_token * kv_tokens

    def times(self, first: int, last: int, kv_tokens: int) -> np.ndarray:
        return np.array([self.seconds(n, kv_tokens) for n in range(first, last + 1)])

    def observe(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        """A table is given, not learned."""


def tables() -> st.SearchStrategy[Table]:
    """Curves with steps, dips, slopes and flat stretches."""
    times = st.lists(st.sampled_from([0.004, 0.005, 0.006, 0.010, 0.020, 0.050]), min_size=1, max_size=24)
    return st.builds(Table, times, st.sampled_from([0.0, 1e-6]))
