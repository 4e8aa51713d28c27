"""What a moment of training is for, by the share of its time that has passed: learning rate and unrolled steps.

Promises: depends on the clock alone, so that `--minutes` holds on any machine, and a run that was killed or is given more time goes on
where its share of the time says. Warm-up, constant, then a decay over the last third (arXiv 2405.18392).
"""

from dataclasses import dataclass

WARM_UP_SHARE = 0.02
DECAY_SHARE = 1 / 3
LEAST_RATE = 0.02

UNROLLED_FROM = (0.6, 0.85)
"""Shares of the time from which a draft that reads states also learns from its own: one step of them, then two. Each costs as much as
the one on the target's, and the first level, where most tokens come from, learns little by them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds that training may take, and those spent, earlier runs included."""

    seconds: float
    spent: float = 0.0

    @property
    def share(self) -> float:
        return min(1.0, self.spent / self.seconds)

    @property
    def left(self) -> float:
        return max(0.0, self.seconds - self.spent)


def rate(share: float) -> float:
    """Share of the full learning rate."""
    return max(LEAST_RATE, min(1.0, share / WARM_UP_SHARE, (1.0 - share) / DECAY_SHARE))


def unrolled_steps(share: float) -> int:
    """Steps on own states after the one on the target's."""
    return sum(share >= first for first in UNROLLED_FROM)
