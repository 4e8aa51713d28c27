"""The shared noise of a few tokens, without tensors: for stages that have scores to rank by.

Promises: the values are those of `drafthouse.noise.gumbel`, up to the last bit of a logarithm.
"""

from collections.abc import Sequence

import numpy as np

from drafthouse.noise import position_key

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def token_noise(seed: int, position: int, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """float32 `[len(tokens)]`; `position` is the absolute one of the token that is chosen."""
    ids = np.asarray(tokens, dtype=np.uint64) + np.uint64(1)
    x = np.uint64(position_key(seed, position) & 0xFFFFFFFFFFFFFFFF) + ids * _GOLDEN
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    v = ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log1p(-v)).astype(np.float32)
