"""Tokens promised by path confidences against tokens accepted: how far a drafter's word is taken (DESIGN 5).

A drafter that promises twice what the target accepts is believed by half. Evidence fades, so that a
drafter that was not believed is tried again after some hundred steps.
"""

FADE = 0.995
"""What is left of the evidence after one more step."""

PRIOR_TOKENS = 2.0
"""So many tokens kept to the letter are assumed before anything is known."""


class Honesty:
    def __init__(self) -> None:
        self._promised = self._accepted = 0.0

    def observe(self, promised: float, accepted: int) -> None:
        """One step's verified nodes: the sum of their path confidences as the drafter gave them, and how many were accepted."""
        self._promised = self._promised * FADE + promised
        self._accepted = self._accepted * FADE + accepted

    @property
    def ratio(self) -> float:
        """Accepted per promised token, at most 1."""
        return min(1.0, (self._accepted + PRIOR_TOKENS) / (self._promised + PRIOR_TOKENS))
