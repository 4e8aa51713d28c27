"""What a session on a drafter brings, to first order: tokens a step, by the drafter's passes in the verifier's step.

Promises: pure; falls with the period of the drafter's passes and with the distance, and grows with acceptance.

A pass drafts one level below what there is, while the verifier runs its step. So the first level of a step is spent by the commit that
ends it, and `D` passes a step leave `D - 1` levels below a commit that lands in the tree, which it does with the probability `a` that
one of the children of an accepted node is accepted:

    gain = a (a + a^2 + ... + a^(D - 1)) = a^2 (1 - a^(D - 1)) / (1 - a)

and nothing below one pass a step: then all that comes hangs below a root that has passed. What lies `round_trip_s` away drafts below
tokens that were committed that long ago, and loses as many levels.
"""

MOST_ACCEPTANCE = 0.98

DEEPEST = 16
"""Levels of the deepest tree (`tree.max_depth`): what is farther away than that many steps drafts nothing that still counts."""


def gain_per_step(acceptance: float, step_s: float, period_s: float, round_trip_s: float = 0.0) -> float:
    """Tokens that a session's drafts add to a step."""
    a = min(max(acceptance, 0.0), MOST_ACCEPTANCE)
    levels = step_s / period_s - 1.0
    if levels <= 0.0 or round_trip_s >= DEEPEST * step_s:
        return 0.0
    return float(a ** (1.0 + round_trip_s / step_s) * a * (1.0 - a**levels) / (1.0 - a))
