"""One stage at work in one session: the fault boundary around it, its time and its worth.

Promises: a stage that raises or that its guard stops is out for this session alone, logged, counted once and closed; one
that does not pay rests and is tried again (`drafthouse.policy.stage_worth`). Nothing that a stage does is raised from here.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from drafthouse.policy.stage_worth import StageWorth
from drafthouse.stages.build import StageMaker
from drafthouse.stages.stage import SessionFacts, Stage
from drafthouse.stages.stage_totals import StageTotals

logger = logging.getLogger(__name__)

T = TypeVar("T")


class RunningStage:
    def __init__(self, maker: StageMaker, facts: SessionFacts, clock: Callable[[], float], totals: StageTotals):
        self.maker = maker
        self._clock, self._totals = clock, totals
        self._worth, self._seconds = StageWorth(), 0.0  # since it was judged last
        self._failed = False
        self._stage: Stage | None = None
        self._stage = self._guarded(partial(maker.make, facts))

    @property
    def present(self) -> bool:
        """Neither failed nor closed."""
        return self._stage is not None

    @property
    def working(self) -> bool:
        """Nor at rest."""
        return self.present and self._worth.working

    def turn(self, calls: Callable[[Stage], T]) -> T | None:
        """What `calls` of the stage, which share one limit of time, come to; None when they fail, or it is not present."""
        return self._guarded(partial(calls, self._stage)) if self._stage is not None else None

    def _guarded(self, calls: Callable[[], T]) -> T | None:
        """The one fault boundary: an own stage may raise anything."""
        started = self._clock()
        if self.maker.worker is not None:
            self.maker.worker.begin_turn()
        try:
            return calls()
        except Exception:
            logger.exception("stage %s is dropped for this session", self.maker.name)
            self._totals.stage_faults += not self._failed
            self._failed = True
            self.close()
            return None
        finally:
            seconds = self._clock() - started
            self._seconds += seconds
            self._totals.stage_seconds += seconds

    def judge(self, gain: float, per_second: float) -> None:
        """What it brought since it was judged last, and what each second that it took is worth, in the same unit."""
        if self.present:
            was = self._worth.working
            self._worth.observe(gain, self._seconds, per_second)
            self._totals.stage_rests += was and not self._worth.working
        self._seconds = 0.0

    def close(self) -> None:
        """The session is over, or the stage has failed."""
        stage, self._stage = self._stage, None
        if stage is not None:
            self._guarded(stage.close)
