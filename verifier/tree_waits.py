"""Which sequences a step leaves out, since their trees of a set size are not complete yet (modes `fixed` and `table`).

Promises: a sequence that waits for its tree waits alone, FIXED_WAIT_S for each tree at most; all others step on. Those of set size wait
for each other where the step is theirs alone, TOGETHER_STEPS at most, and only while nodes are due: so a crowd of them steps in
one batch, and a drafter that hangs holds up no sequence but its own.
"""

from drafthouse.policy.start_rule import Announcement
from verifier.draft_sessions import DraftSessions
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence

FIXED_WAIT_S = 0.5
"""Modes `fixed` and `table` wait this long for a tree; then the sequence steps with what is there."""

TOGETHER_STEPS = 4
"""Plain steps that one tree may wait for another. With 1 the baselines lose 4 % in `drafthouse simulate` (chains of 3 on the 8B curve at
15 requests/s), since sequences that miss each other step in turns."""


class TreeWaits:
    def __init__(self, draft_sessions: DraftSessions):
        self._draft_sessions = draft_sessions
        self._together_until: float | None = None  # those of set size wait for each other until then; None: they have not begun to

    def late(self, plan: StepPlan, now: float) -> list[Sequence]:
        """Sequences that wait for their trees."""
        return [s for s in plan.decoding if s.waits and self._is_late(s, now)]

    def _is_late(self, s: Sequence, now: float) -> bool:
        session = s.draft_session
        if session is None or session.exhausted or s.max_draft_depth <= 0:
            return False
        if len(session.tree) >= self._draft_sessions.wanted(s.request.speculation):
            return False
        if s.tree_deadline is None:
            s.tree_deadline = now + FIXED_WAIT_S
        return now < s.tree_deadline

    def until(self, others: StepPlan, late: list[Sequence], now: float, step_s: float) -> float | None:
        """Until when the step waits for some of `late`, or None: `others` start now. A plain step takes `step_s`."""
        deadlines = [s.tree_deadline for s in late if s.tree_deadline is not None]
        if not others.sequences:
            return min(deadlines)
        if not all(s.waits for s in others.decoding):
            return None
        if self._together_until is None:
            self._together_until = now + TOGETHER_STEPS * step_s
        until = min(self._together_until, max(_due(s) for s in late), *deadlines)
        return until if until > now else None

    def begun(self) -> None:
        """A step begins: whichever trees are complete are in it."""
        self._together_until = None


def _due(s: Sequence) -> float:
    """When the next nodes must have come, if any are announced."""
    announcement: Announcement | None = s.draft_session.announcement if s.draft_session is not None else None
    return announcement.void_at if announcement is not None else 0.0
