"""The long-run rate of committed tokens per second of busy time: the exchange rate between tokens and time."""

import math

HORIZON_S = 1.0
"""Half of the weight lies on about so many of the last busy seconds: long against a step, short against a change of load."""


class GoodputMeter:
    """Decayed tokens over decayed seconds; idle time is not counted."""

    def __init__(self, prior_rate: float):
        self._seconds = HORIZON_S * 0.05  # the prior weighs as much as this long
        self._tokens = prior_rate * self._seconds

    def observe(self, tokens: int, seconds: float) -> None:
        decay = math.exp(-seconds / HORIZON_S)
        self._tokens = self._tokens * decay + tokens
        self._seconds = self._seconds * decay + seconds

    @property
    def rate(self) -> float:
        return self._tokens / self._seconds
