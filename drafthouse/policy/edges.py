"""A fixed prior for edge probabilities, from the draft's own margins.

Under shared noise the margin between perturbed scores says how likely the target agrees; the
draft's probability hardly does (DESIGN 6). The first child's edge rises with its lead, and what
it leaves is shared among the siblings, each less likely the further it lies below the one above.
The constants were fitted on the demo pair by `drafthouse train-demo`'s evaluation text.
"""

import math
from collections.abc import Sequence

FIRST_LOW, FIRST_HIGH, FIRST_SCALE = 0.30, 0.97, 1.6
SIBLING_SHARE, SIBLING_SCALE = 0.45, 1.2


def edge_probabilities(margins: Sequence[float]) -> list[float]:
    """Edges of siblings in rank order, from margins as `drafthouse.choose.rank` gives them; their sum is below 1."""
    edges: list[float] = []
    left = 1.0
    for rank, margin in enumerate(margins):
        if rank == 0:
            edge = FIRST_HIGH - (FIRST_HIGH - FIRST_LOW) * math.exp(-margin / FIRST_SCALE)
        else:
            edge = left * SIBLING_SHARE * math.exp(margin / SIBLING_SCALE)
        edges.append(edge)
        left -= edge
    return edges


EXPECTED_CHILDREN = 0.75
"""Probability that one of the children drafted below an accepted node is accepted too."""
