"""Start the step now, or wait for drafts that were announced? (DESIGN 5)

Wait while what the drafters announced is worth more than goodput times the wait. Past the
announced time plus slack the expectation is zero, which covers the drafter that hangs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

SLACK_SHARE, SLACK_S = 0.5, 0.002
"""An announcement is believed this much longer than it said: a share of the announced wait and a constant."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """`tokens` accepted tokens more are expected when the message of time `made` comes true at `due` (seconds)."""

    made: float
    due: float
    tokens: float

    @property
    def void_at(self) -> float:
        return self.due + SLACK_SHARE * (self.due - self.made) + SLACK_S


def wait_until(now: float, announcements: Iterable[Announcement], goodput: float) -> float | None:
    """The time to wait for (an arrival may come sooner; then ask again), or None: start now."""
    live = sorted((a for a in announcements if a.void_at > now and a.tokens > 0.0), key=lambda a: a.due)
    best, gain, until = 0.0, 0.0, None
    for announcement in live:
        gain += announcement.tokens
        value = gain - goodput * max(0.0, announcement.due - now)
        if value > best:
            best, until = value, announcement.void_at
    return until
