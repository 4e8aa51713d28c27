"""The long-run rate of committed tokens per second of busy time: the exchange rate between tokens and time.

A rate alone is slow to follow the load: after thirty-two sequences have become one, it would price a
second thirty times too dear until it has faded. What speculation gains over plain decoding changes
far less with the load than the rate does. So the gain is what is averaged, and the rate of exchange
is the gain times the plain rate of the step at hand, which is known at once.
"""

import math

HORIZON_S = 1.0
"""Half of the weight lies on about so many of the last busy seconds: long against a step, short against a change of load."""

PRIOR_S = 0.05
"""The prior weighs as much as this long."""


class GoodputMeter:
    """Decayed tokens over decayed seconds; idle time is not counted. Rates are tokens per second."""

    def __init__(self, prior_rate: float):
        self._seconds = PRIOR_S
        self._tokens = prior_rate * PRIOR_S
        self._plain_seconds = PRIOR_S  # that plain decoding would have taken for as many tokens

    def observe(self, tokens: int, seconds: float, plain_rate: float) -> None:
        """Tokens committed in so many busy seconds, at a load at which plain decoding commits `plain_rate` a second."""
        decay = math.exp(-seconds / HORIZON_S)
        self._tokens = self._tokens * decay + tokens
        self._seconds = self._seconds * decay + seconds
        self._plain_seconds = self._plain_seconds * decay + tokens / plain_rate

    @property
    def rate(self) -> float:
        """What was committed per busy second."""
        return self._tokens / self._seconds

    @property
    def gain(self) -> float:
        """The time that plain decoding would have taken over the time taken: each second counts alike, whatever the load in it."""
        return self._plain_seconds / self._seconds

    def value_of_a_second(self, plain_rate: float) -> float:
        """Tokens that a second is worth now. Never below plain decoding, which can always be had: a rate that bad
        speculation drags down would make time look cheap and call for more of it."""
        return max(1.0, self.gain) * plain_rate
