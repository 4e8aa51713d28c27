"""Tokens promised by path confidences against tokens accepted: how far a drafter's word is taken (docs/design.md 5).

A drafter that promises twice what the target accepts is trusted by half; a session's own evidence
counts beside its drafter's. Evidence fades, so that a drafter that was not trusted is tried again. A drafter whose
word has been worth next to nothing for long loses its sessions for a while.
"""

FADE = 0.995
"""What is left of the evidence after one more step with verified nodes."""

REST_FADE = 0.999
"""And after one without: a drafter that is not trusted gets nothing verified, and would never be tried again."""

PRIOR_TOKENS = 2.0
"""So many promised tokens are assumed to have come true as often as the prior says before anything is known."""

LOWEST_RATIO = 0.02
"""Distrust is bounded: prices divided by it stay finite."""

LIE_RATIO, LIE_S = 0.25, 3.0
"""Trust below this share for this many seconds is no matter of hard text: a truthful drafter promises little there."""

BAN_S = 60.0
"""How long a drafter that lied so is left alone."""


class TrustRecord:
    """`ratio`: accepted per promised token, by its own evidence alone."""

    def __init__(self) -> None:
        self._promised = self._accepted = 0.0
        self.ratio = 1.0

    def observe(self, promised: float, accepted: float) -> None:
        """One step's verified nodes: the sum of their path confidences as the drafter gave them, and how many were accepted."""
        self._promised = self._promised * FADE + promised
        self._accepted = self._accepted * FADE + accepted
        self.ratio = self.given(1.0)

    def rest(self) -> None:
        """One step in which nothing of it was verified."""
        self._promised *= REST_FADE
        self._accepted *= REST_FADE
        self.ratio = self.given(1.0)

    def given(self, prior: float) -> float:
        """Accepted per promised token, between LOWEST_RATIO and 1; `prior` where evidence is thin."""
        ratio = (self._accepted + PRIOR_TOKENS * prior) / (self._promised + PRIOR_TOKENS)
        return 1.0 if ratio > 1.0 else LOWEST_RATIO if ratio < LOWEST_RATIO else ratio


class Standing:
    """What a drafter promised and kept, and until when (seconds) it is banned."""

    def __init__(self) -> None:
        self.trust_record = TrustRecord()
        self.banned_until = 0.0
        self._lies_since: float | None = None
        self._used = False

    def observe(self, promised: float, accepted: float) -> None:
        """As TrustRecord.observe, for each sequence with nodes of this drafter in a step."""
        self.trust_record.observe(promised, accepted)
        self._used = True

    def end_step(self, now: float) -> bool:
        """Whether it is banned just now, for lies; its record then starts again."""
        if not self._used:
            self.trust_record.rest()
        self._used = False
        if self.trust_record.ratio >= LIE_RATIO:
            self._lies_since = None
        elif self._lies_since is None:
            self._lies_since = now
        elif now - self._lies_since >= LIE_S:
            self.trust_record, self._lies_since, self.banned_until = TrustRecord(), None, now + BAN_S
            return True
        return False

    def banned(self, now: float) -> bool:
        return now < self.banned_until
