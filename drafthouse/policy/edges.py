"""A fixed prior for edges, from the draft's own margins; what is known of a pair before anything is learned.

Under shared noise the margin between perturbed scores says how likely the target agrees; the draft's
probability hardly does (docs/design.md 6). The margin that counts is a child's lead over the next one, at
every rank: given that those above were not chosen, the child is the first of what is left. (Its
distance below the one above says nothing: AUC 0.5 against 0.65.) Fitted on the demo pair by maximum
likelihood: 15,360 tokens of the target's own text after held-out prompts (60 prompts of 96 tokens,
64 tokens each), greedy and at temperatures 0.8, 1 and 1.2.
"""

import math
from collections.abc import Sequence

LOW = (0.22, 0.16, 0.12, 0.10)
LATER_LOW = 0.08
"""A child's chance without a lead, by rank."""

HIGH = 0.99
"""With any lead, however large."""

GREEDY_SCALE, SAMPLED_SCALE = 1.35, 2.5
"""Lead over which the gap to HIGH falls by e: logits, or logits over temperature plus noise, which makes a lead worth less."""

TYPICAL = (0.53, 0.31, 0.22, 0.17)
LATER_TYPICAL = 0.12
"""A child's chance whatever its lead, by rank."""

EXPECTED_CHILDREN = 1.0 - math.prod(1.0 - hazard for hazard in TYPICAL)
"""Probability that one of four children drafted below an accepted node is accepted too."""


def prior_hazard(rank: int, margin: float, temperature: float) -> float:
    """Probability, strictly between 0 and 1, that a child is accepted given that its parent was and no sibling above it."""
    low = LOW[rank] if rank < len(LOW) else LATER_LOW
    return HIGH - (HIGH - low) * math.exp(-margin / (SAMPLED_SCALE if temperature > 0.0 else GREEDY_SCALE))


def typical_hazard(rank: int) -> float:
    """The same for a child of unknown margin."""
    return TYPICAL[rank] if rank < len(TYPICAL) else LATER_TYPICAL


def edges_of(hazards: Sequence[float]) -> list[float]:
    """Edges of siblings from their hazards, in rank order: each takes its share of what those above it leave, so they sum to at most 1."""
    edges, left = [], 1.0
    for hazard in hazards:
        edges.append(left * hazard)
        left -= edges[-1]
    return edges
