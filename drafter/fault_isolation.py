"""Sessions whose pass together failed, and which of them was the cause.

Promises: while there are suspects one of them runs alone in each pass, the first first, until it is dropped, wants no pass, or
has had two that left none of its committed tokens unseen: the catch-up's last and, as a rule, one over its tree. However many
commits come meanwhile, nobody's turn is put off for longer.
"""

from drafter.session import Session

PASSES_ALONE = 2
CULPRIT_S = 60.0
"""So long the session whose pass failed alone is not opened here again: its verifier asks every second, and each trial
costs all others the KV of their drafts."""


class FaultIsolation:
    def __init__(self) -> None:
        self._passes: dict[Session, int] = {}  # that went well, by suspect
        self._refused_until: dict[str, float] = {}  # by the id of a culprit

    def add(self, session: Session) -> None:
        self._passes[session] = 0

    def remove(self, session: Session) -> None:
        self._passes.pop(session, None)

    def first(self) -> Session | None:
        """Who is to run alone in the next pass."""
        while self._passes and not (session := next(iter(self._passes))).wants_pass:
            self.remove(session)
        return next(iter(self._passes), None)

    def passed(self, session: Session) -> None:
        """Its pass alone went well."""
        if session in self._passes and not session.missing:
            self._passes[session] += 1
            if self._passes[session] == PASSES_ALONE:
                self.remove(session)

    def blame(self, session: Session, now: float) -> None:
        self._refused_until = {name: until for name, until in self._refused_until.items() if until > now}
        self._refused_until[session.id] = now + CULPRIT_S

    def refuses(self, session: str, now: float) -> bool:
        return self._refused_until.get(session, now) > now
