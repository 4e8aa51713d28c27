"""What speaks for a token that followed the same tokens before: how many they were, and how often it did.

Promises: margins on the scale of the draft's own, so that the prior of `drafthouse.policy.edges` is
not far off before calibration has learned better.
"""

import math
from collections.abc import Sequence

from drafthouse.stages.stage import Children

MARGIN_OF_DOUBLED_LENGTH = 1.0
"""A match twice as long. Lengths 1, 2, 4, ... 64 so lie in calibration's buckets one after another."""


def children_of(candidates: Sequence[tuple[int, int, float]], width: int) -> Children:
    """The best of (token, length of the match before it, how often it came), longest first, then the most frequent.

    Margin: log2 of the length, times the share of the token among those that are left at its length.
    """
    ordered = sorted(candidates, key=lambda c: (-c[1], -c[2], c[0]))
    tokens, margins = [], []
    for i, (token, length, count) in enumerate(ordered[:width]):
        left = sum(other for _, same, other in ordered[i:] if same == length)
        tokens.append(token)
        margins.append(MARGIN_OF_DOUBLED_LENGTH * math.log2(1 + length) * count / left)
    return Children(tokens, margins)
