"""A fixed prior for edge probabilities, from the draft's own margins.

Under shared noise the margin between perturbed scores says how likely the target agrees; the
draft's probability hardly does (DESIGN 6). The first child's edge rises with its lead. What it
leaves goes to the siblings in shares that depend on their rank alone: below the first, margins
told nothing. Fitted on the demo pair: 3,840 tokens of the target's own text after held-out prompts
(60 prompts of 96 tokens, 64 tokens each), greedy and at temperatures 0.8 and 1.
"""

import math
from collections.abc import Sequence

FIRST_LOW, FIRST_HIGH = 0.22, 0.99
"""The first child's edge without a lead, and with any lead however large."""

GREEDY_SCALE, SAMPLED_SCALE = 1.6, 2.6
"""Lead, in logits at temperature 1, over which the gap to FIRST_HIGH falls by e; noise makes a lead worth less."""

SIBLING_SHARES = (0.28, 0.19, 0.14)
LATER_SHARE = 0.10
"""Of what is left by those above it, so much goes to the second, third and fourth child, and to any further one."""

EXPECTED_CHILDREN = 0.75
"""Probability that one of the children drafted below an accepted node is accepted too."""


def edge_probabilities(margins: Sequence[float], greedy: bool) -> list[float]:
    """Edges of siblings in rank order, from margins as `drafthouse.choose.rank` gives them; their sum is below 1."""
    if not margins:
        return []
    scale = GREEDY_SCALE if greedy else SAMPLED_SCALE
    edges = [FIRST_HIGH - (FIRST_HIGH - FIRST_LOW) * math.exp(-margins[0] / scale)]
    left = 1.0 - edges[0]
    for rank in range(1, len(margins)):
        share = SIBLING_SHARES[rank - 1] if rank <= len(SIBLING_SHARES) else LATER_SHARE
        edges.append(left * share)
        left -= edges[-1]
    return edges
