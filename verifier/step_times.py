"""What the time of steps went into, and how long requests queued: for metrics. No clock, seconds come in."""

from collections import deque

from verifier.scheduler import StepPlan
from verifier.totals import VerifyTotals

KEPT = 10_000
"""Samples that wait for whoever exports them; where nobody does, the oldest go."""


class StepTimes:
    def __init__(self, totals: VerifyTotals):
        self.queue_seconds: deque[float] = deque(maxlen=KEPT)  # of each request, until its first step
        self._totals = totals
        self._gathering_since: float | None = None

    def idle(self) -> None:
        """There is nothing to do."""
        self._gathering_since = None

    def gather(self, now: float) -> None:
        """The step waits for drafts."""
        if self._gathering_since is None:
            self._gathering_since = now

    def begin(self, plan: StepPlan, started: float, ready: float) -> None:
        """A step that began to plan at `started` is `ready` to run."""
        self._totals.select_seconds += ready - started
        if self._gathering_since is not None:
            self._totals.gather_seconds += started - self._gathering_since
            self._gathering_since = None
        for s in (*plan.decoding, *(s for s, _ in plan.prefilling)):
            if s.arrived is not None:
                self.queue_seconds.append(started - s.arrived)
                s.arrived = None

    def chose(self, ready: float, run_s: float, now: float) -> None:
        """Tokens are chosen `now`, after a run of `run_s` seconds."""
        self._totals.choose_seconds += now - ready - run_s
