"""Whether a drafter still answers what it is asked. Its process may be alive, so that it echoes, and its device hang.

Promises: a drafter is hung when nothing at all has come from it for HUNG_S and HUNG_STEPS steps that asked it for something; it is tried
again after HUNG_S. Steps are counted beside the time so that a verifier that was itself held up does not blame its drafters.
"""

HUNG_S = 10.0
"""Longer than any pass over a prompt chunk. Nobody waits for a drafter so long: what it costs meanwhile is that no other drafts."""

HUNG_STEPS = 20


class Responsiveness:
    """Of one drafter; every commit is to be answered, if only by an empty Grow."""

    def __init__(self) -> None:
        self._sent = False
        self._steps = 0
        self._since = 0.0  # the first step that was not answered
        self._hung_until = 0.0

    def sent(self) -> None:
        """In the current step."""
        self._sent = True

    def heard(self) -> None:
        self._steps, self._hung_until = 0, 0.0

    def end_step(self, now: float) -> bool:
        """Whether it is hung just now, so that its sessions should go elsewhere."""
        if not self._sent:
            return False
        self._sent = False
        if not self._steps:
            self._since = now
        self._steps += 1
        if self._steps <= HUNG_STEPS or now - self._since < HUNG_S:
            return False
        self._steps, self._hung_until = 0, now + HUNG_S
        return True

    def hung(self, now: float) -> bool:
        return now < self._hung_until
