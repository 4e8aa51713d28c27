"""Whether new sessions may have a stage that fails: after faults in a row it is out for all of them, and tried again by one at a time.

Promises: each fault costs its session up to a time limit, and a stage that always fails would cost every one that; it costs
few, and then one in OUT_S. No clock: `now` (seconds) comes in. Only speed depends on any of it, never text.
"""

FAULTS_IN_A_ROW = 3
"""With no session between them in which it worked: one text that a stage cannot do with is no reason to take it from others."""

OUT_S = 60.0
"""Between two tries: what is broken outside, a file or a service that a stage asks, is seldom mended sooner."""


class StageBreaker:
    """Of one stage in one process."""

    def __init__(self) -> None:
        self._faults = 0
        self._next_try = 0.0

    @property
    def out(self) -> bool:
        return self._faults >= FAULTS_IN_A_ROW

    def allows(self, now: float) -> bool:
        """Whether the session that begins now has the stage; while the stage is out, that is a try."""
        if not self.out:
            return True
        if now < self._next_try:
            return False
        self._next_try = now + OUT_S  # the next, should this one come to no verdict
        return True

    def failed(self, now: float) -> None:
        """The stage had a fault in a session."""
        self._faults += 1
        self._next_try = now + OUT_S

    def worked(self) -> None:
        """A session in which it was asked has ended without a fault of it."""
        self._faults = 0
