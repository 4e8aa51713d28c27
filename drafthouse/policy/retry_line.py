"""When a refused request may come again: in a line behind the queue, which moves at the measured service rate.

Promises: whoever is refused is told a time of its own, so that all who were refused do not come back at
once; the times are those at which places are expected to become free. No clock: `now` (seconds) comes in.

A request in service ends after a mean time S, so that n of them together free n / S places a second (Little's
law). S is estimated as the time that requests have spent in service over the number of those that ended, which
counts those that are still there too: while nobody ends, the rate falls.
"""

MEMORY = 32.0
"""Requests that the estimate rests on: the latest so many."""

PRIOR_SERVICE_S = 1.0
"""Mean time in service as one request's word, before any has ended."""

LEAST_S, MOST_S = 0.05, 60.0
"""Bounds of what is told: below, the answer itself is as slow; above, the rate will be another by then."""


class RetryLine:
    def __init__(self) -> None:
        self._ends, self._in_service_s = 1.0, PRIOR_SERVICE_S
        self._seen: float | None = None
        self._counted = 0
        self._last_turn = 0.0

    def observe(self, now: float, in_service: int, ended: int) -> None:
        """`in_service` requests were in service since the last call; `ended` have left it since the beginning."""
        if self._seen is not None:
            self._in_service_s += in_service * (now - self._seen)
        self._seen = now
        more, self._counted = ended - self._counted, ended
        if more > 0:
            kept = (1.0 - 1.0 / MEMORY) ** more
            self._ends = self._ends * kept + MEMORY * (1.0 - kept)  # the sum of a geometric series, `more` terms of it
            self._in_service_s *= kept

    def places_per_s(self, in_service: int) -> float:
        """Places that so many requests in service free in a second; with none there, as one would."""
        return max(1, in_service) * self._ends / self._in_service_s

    def refuse(self, now: float, in_service: int) -> float:
        """Seconds after which the request refused now may come again: it is the last of the line from here on."""
        turn = max(self._last_turn, now) + 1.0 / self.places_per_s(in_service)
        self._last_turn = min(turn, now + MOST_S)
        return min(MOST_S, max(LEAST_S, self._last_turn - now))  # a difference of large times may round up
