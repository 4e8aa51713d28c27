"""How much one gateway has in progress at once, and when whoever finds no place may come again.

Promises: never more than `count` places are taken; a plan in the making holds one, since it will need at least that.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from drafthouse.errors import OverloadError
from drafthouse.policy.retry_line import RetryLine


class Capacity:
    """One for each choice of each request."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0
        self._planning = 0
        self._released = 0
        self._line = RetryLine()

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Raises OverloadError."""
        self._check(1)
        self._planning += 1
        try:
            yield
        finally:
            self._planning -= 1

    def take(self, choices: int) -> None:
        """Raises OverloadError, taking nothing."""
        self._check(choices)
        self._observe()
        self.taken += choices

    def release(self, choices: int) -> None:
        self._released += choices
        self._observe()
        self.taken -= choices

    def _check(self, choices: int) -> None:
        used = self.taken + self._planning
        if used + choices > self.count:
            message = f"this gateway has {used} requests in progress, and serves {self.count} at once"
            raise OverloadError(message, self._line.refuse(time.monotonic(), self.taken))

    def _observe(self) -> None:
        self._line.observe(time.monotonic(), self.taken, self._released)
