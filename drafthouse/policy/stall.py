"""When a device that does not come back from a run is taken for stalled, though the process around it lives.

Promises: no clock. Looks are counted, not seconds: a process that was itself held up or halted takes no look meanwhile, and does not
blame its device. A run that should take long may.
"""

LOOK_S = 0.25
"""Between two looks at what runs."""

STALL_S = 2.0
"""No run is stalled before. A busy machine may keep one that takes milliseconds for a second."""

STALL_TIMES = 5.0
"""Nor before it has taken this many times what it should: a first run that compiles, a machine with too much to do."""


class StallWatch:
    """Of one device. `stalled`: the verdict of the last look."""

    def __init__(self) -> None:
        self.stalled = False
        self._run: int | None = None
        self._looks = 0

    def look(self, run: int | None, expected_s: float) -> bool:
        """Once every LOOK_S. `run` is the number of the run in progress, None between two, and `expected_s` what it should take.
        Returns whether the verdict has changed."""
        self._looks = self._looks + 1 if run is not None and run == self._run else 0
        self._run = run
        before, self.stalled = self.stalled, self._looks * LOOK_S >= max(STALL_S, STALL_TIMES * expected_s)
        return self.stalled != before
