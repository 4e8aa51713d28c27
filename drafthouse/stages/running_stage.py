"""One stage at work in one session: the fault boundary around it, its time and its worth.

Promises: a stage that raises or that its guard stops is out for this session alone, logged, counted once and closed; one
that fails in session after session is not made for new ones (`drafthouse.policy.stage_breaker`); one that does not pay rests
and is tried again (`drafthouse.policy.stage_worth`). Nothing that a stage does is raised from here.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from drafthouse.policy.stage_breaker import FAULTS_IN_A_ROW, OUT_S
from drafthouse.policy.stage_worth import StageWorth
from drafthouse.stages.build import StageMaker
from drafthouse.stages.stage import Children, SessionFacts, Stage
from drafthouse.stages.stage_totals import StageTotals

logger = logging.getLogger(__name__)

T = TypeVar("T")

Ask = Callable[[Sequence[int], int], Children]
"""`Stage.children`."""


class RunningStage:
    def __init__(self, maker: StageMaker, facts: SessionFacts, clock: Callable[[], float], totals: StageTotals):
        self.maker = maker
        self._clock, self._totals = clock, totals
        self._worth, self._seconds = StageWorth(), 0.0  # of growth, which alone a rest saves, since it was judged last
        self._failed = self._answered = False
        self._stage: Stage | None = None
        if maker.breaker.allows(clock()):
            self._stage = self._guarded(partial(maker.make, facts))

    @property
    def present(self) -> bool:
        """Neither left out, failed nor closed."""
        return self._stage is not None

    @property
    def working(self) -> bool:
        """Nor at rest."""
        return self.present and self._worth.working

    def follow(self, tokens: Sequence[int]) -> None:
        """Committed tokens; one that rests follows too, or it could not be tried again."""
        if self._stage is not None:
            self._guarded(partial(self._stage.follow, tokens))

    def grow(self, growth: Callable[[Ask], T]) -> T | None:
        """What `growth` makes of the stage's answers, which share one limit of time; None when one is a fault, or it does not work."""
        if self._stage is None or not self.working:
            return None
        started = self._clock()
        grown = self._guarded(partial(growth, partial(self._children, self._stage)))
        self._seconds += self._clock() - started
        return grown

    def _children(self, stage: Stage, path: Sequence[int], width: int) -> Children:
        children = stage.children(path, width)
        self._answered = True
        return children

    def _guarded(self, turn: Callable[[], T]) -> T | None:
        """The one fault boundary: an own stage may raise anything."""
        started = self._clock()
        if self.maker.worker is not None:
            self.maker.worker.begin_turn()
        try:
            return turn()
        except Exception:
            logger.exception("stage %s is dropped for this session", self.maker.name)
            self._fail()
            return None
        finally:
            self._totals.stage_seconds += self._clock() - started

    def _fail(self) -> None:
        """Counts the session's first fault; what closing brings on top of it does not."""
        if not self._failed:
            self._failed = True
            self._totals.stage_faults += 1
            breaker, was_out = self.maker.breaker, self.maker.breaker.out
            breaker.failed(self._clock())
            if breaker.out and not was_out:
                text = "stage %s is out for new sessions after %d faults in a row; every %.0f s one tries it"
                logger.error(text, self.maker.name, FAULTS_IN_A_ROW, OUT_S)
        self.close(finished=False)

    def judge(self, gain: float, per_second: float) -> None:
        """What it brought since it was judged last, and what each second that it took is worth, in the same unit."""
        if self.present:
            was = self._worth.working
            self._worth.observe(gain, self._seconds, per_second)
            self._totals.stage_rests += was and not self._worth.working
        self._seconds = 0.0

    def close(self, finished: bool) -> None:
        """The session is over, or the stage has failed."""
        stage, self._stage = self._stage, None
        if stage is None:
            return
        self._guarded(partial(stage.close, finished))
        if self._answered and not self._failed:
            if self.maker.breaker.out:
                logger.warning("stage %s works again", self.maker.name)
            self.maker.breaker.worked()
