"""Start the step now, or wait for drafts that were announced? (docs/design.md 5)

Wait while what the drafters announced is worth more than the time of the wait. Past the
announced time plus slack the expectation is zero, which covers the drafter that hangs. Worth is what
nodes promise beyond their price: one that just pays for its verification is not worth any wait.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SLACK_SHARE, SLACK_S = 0.5, 0.002
"""An announcement is trusted this much longer than it said: a share of the announced wait and a constant."""

FIRST_NODES_S = 0.005
"""Until measured: how long a drafter's nodes take to come after a commit."""

FIRST_NODES_TOKENS = {True: 0.2, False: 0.7}
"""Until measured: what they are worth, where the verifier's own copy of the tree still has nodes and where it has none."""

FIRST_NODES_RATE = 0.2
"""Weight of the latest commit in both moving averages."""


WHOLE_GAIN, GAIN_SHARE = 1.0, 0.6
"""Of what a wait brings, so much is gained by it: where drafting goes on during the step, the rest comes for the next one anyway.
Mean latency in `drafthouse simulate` is flat between 0.5 and 0.7 and 5 % higher at 1, on the 8B and the 70B curve."""


class Announcement(NamedTuple):
    """Nodes worth `tokens` are expected when the message of time `made` comes true at `next_pass_at` (seconds)."""

    made: float
    next_pass_at: float
    tokens: float

    def times(self, factor: float) -> "Announcement":
        """Each of its tokens is worth `factor` others."""
        return self._replace(tokens=self.tokens * factor)

    @property
    def void_at(self) -> float:
        return self.next_pass_at + SLACK_SHARE * (self.next_pass_at - self.made) + SLACK_S


@dataclass(slots=True)
class FirstNodes:
    """What usually comes after a commit, and when: stands in for an announcement until the drafter makes one."""

    seconds: float = FIRST_NODES_S
    tokens: dict[bool, float] = field(default_factory=lambda: dict(FIRST_NODES_TOKENS))

    def copy(self) -> "FirstNodes":
        return FirstNodes(self.seconds, dict(self.tokens))

    def observe(self, had_nodes: bool, seconds: float, tokens: float) -> None:
        """The first nodes after a commit came so late and were worth so much beyond what was there."""
        self.seconds += FIRST_NODES_RATE * (seconds - self.seconds)
        self.tokens[had_nodes] += FIRST_NODES_RATE * (tokens - self.tokens[had_nodes])

    def expect(self, had_nodes: bool, now: float, seconds: float) -> Announcement:
        """`seconds` is the drafter's time to its first nodes: one more session there delays those of all."""
        return Announcement(now, now + seconds, self.tokens[had_nodes])


def worth_a_look(now: float, announcements: Sequence[Announcement], value_of_a_second: float, share: float) -> bool:
    """Whether `wait_until` might say so: it does not if all that is announced, at the first moment of any, were not worth the time."""
    if not announcements:
        return False
    soonest, most = min([a.next_pass_at for a in announcements]), share * sum([a.tokens for a in announcements])
    return most > value_of_a_second * (soonest - now)


def wait_until(now: float, announcements: Iterable[Announcement], value_of_a_second: float, share: float = GAIN_SHARE) -> float | None:
    """The time to wait for (an arrival may come sooner; then ask again), or None: start now. `share`: of what a wait brings, how much
    is gained by it."""
    live = sorted((a for a in announcements if a.void_at > now and a.tokens > 0.0), key=lambda a: a.next_pass_at)
    best, gain, until = 0.0, 0.0, None
    for announcement in live:
        gain += share * announcement.tokens
        value = gain - value_of_a_second * max(0.0, announcement.next_pass_at - now)
        if value > best:
            best, until = value, announcement.void_at
    return until
