"""Whether a stage pays for a session: the tokens that it alone brings against what its time costs.

Promises: a stage that does not pay rests, for longer each time, and is tried again; while it is tried it
works. What a second costs is the session's own rate of committed tokens, so gain and cost are both in
tokens. Only speed depends on any of it, never text.
"""

TRIAL_COMMITS = 16
"""Before a verdict: a stage that brings one token in ten commits is most likely seen to."""

FIRST_REST_COMMITS, LONGEST_REST_COMMITS = 64, 1024
"""Each trial in vain doubles the rest: a useless stage works for TRIAL_COMMITS in LONGEST_REST_COMMITS."""

FADE = 0.5 ** (1.0 / 64)
"""A commit counts half after 64 further ones, some hundred tokens: text changes from paragraph to paragraph."""


class CommitRate:
    """Committed tokens per second of one session, faded."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        self._tokens, self._seconds = self._tokens * FADE + tokens, self._seconds * FADE + seconds

    @property
    def tokens_per_second(self) -> float:
        return self._tokens / self._seconds if self._seconds > 0.0 else 0.0


class StageWorth:
    """Of one stage in one session."""

    def __init__(self) -> None:
        self._gain = self._cost = 0.0
        self._commits = 0  # of this trial, or left of this rest
        self._rest = FIRST_REST_COMMITS
        self.working = True

    def observe(self, gain: float, seconds: float, tokens_per_second: float) -> None:
        """Once a commit: tokens of it that no stage before this one had drafted, and seconds that the stage took since the last."""
        if not self.working:
            self._commits -= 1
            if self._commits == 0:
                self.working, self._gain, self._cost = True, 0.0, 0.0
            return
        self._commits += 1
        self._gain = self._gain * FADE + gain
        self._cost = self._cost * FADE + seconds * tokens_per_second
        if self._commits < TRIAL_COMMITS:
            return
        if self._gain < self._cost or self._gain == 0.0:
            self.working, self._commits = False, self._rest
            self._rest = min(2 * self._rest, LONGEST_REST_COMMITS)
        else:
            self._rest = FIRST_REST_COMMITS
