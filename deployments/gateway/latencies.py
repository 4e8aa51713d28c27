"""How long clients wait for tokens: samples for histograms, a few numbers for each request.

Promises: no clock, `now` (seconds) comes in; a request costs at most four samples, however many tokens it has.
"""

from collections import deque

KEPT = 10_000
"""Samples of a kind that wait for whoever takes them out; where nobody does, the oldest go."""


class Latencies:
    """Of all requests, in seconds, by metric key; whoever exports them takes them out."""

    def __init__(self) -> None:
        keys = ("first_token_seconds", "token_seconds", "longest_pause_seconds", "request_seconds")
        self.samples: dict[str, deque[float]] = {key: deque(maxlen=KEPT) for key in keys}


class Stopwatch:
    """Of one request, dispatched at `now`."""

    def __init__(self, latencies: Latencies, now: float):
        self._samples, self._began = latencies.samples, now
        self._first: float | None = None
        self._last, self._later, self._pause = now, 0, 0.0  # tokens that came after the first ones

    def tokens(self, count: int, now: float) -> None:
        """So many new tokens have come."""
        if not count:
            return
        if self._first is None:
            self._first = now
            self._samples["first_token_seconds"].append(now - self._began)
        else:
            self._pause = max(self._pause, now - self._last)
            self._later += count
        self._last = now

    def served(self) -> None:
        """The last token has come."""
        self._samples["request_seconds"].append(self._last - self._began)
        if self._first is not None and self._later:
            self._samples["longest_pause_seconds"].append(self._pause)
            self._samples["token_seconds"].append((self._last - self._first) / self._later)
