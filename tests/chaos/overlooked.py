"""For how long the cluster went on counting a stopped process among the living: a lower bound, which no busy machine can raise.

Promises: pure. Time is counted in the observer's own looks, so that what it was late or halted itself is not held against the
cluster. An answer says how things stood when its question was put, which was after the answer before it had come: the time
of that one counts.
"""

LOOK_S = 0.02


class Overlooked:
    """`seconds` is 0 until two answers that came after the signal have found the process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._looks = 0
        self._last: tuple[float, int] | None = None

    def look(self, asked: float | None) -> None:
        """Once every LOOK_S from the signal on. `asked`: when the question was put whose answer, the latest, found the process."""
        before, self._looks = self._looks, self._looks + 1
        if asked is None or (self._last is not None and asked == self._last[0]):
            return
        if self._last is not None:
            self.seconds = round(self._last[1] * LOOK_S, 2)
        self._last = asked, before
