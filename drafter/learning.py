"""What a drafter learns of commits: its calibrations, and the trace for the simulator.

Promises: each label counts once, for its own source; what is learned is kept over restarts where it is to be.
"""

import pathlib
from collections.abc import Sequence

from drafter.calibration_store import CalibrationStore
from drafter.session import Session
from drafter.stage_credit import Label
from drafter.trace import TraceWriter
from drafthouse.stages.build import MODEL
from drafthouse.wire.totals import DraftTotals


class Learning:
    def __init__(self, calibrations: CalibrationStore, trace: pathlib.Path | None, traced: int, totals: DraftTotals):
        """A trace is written of the source `traced`. Raises ConfigError where its folder cannot be written."""
        self.calibrations, self._totals, self.traced = calibrations, totals, traced
        self.trace = TraceWriter(trace) if trace else None

    def learn(self, session: Session, labels: Sequence[Label], now: float) -> None:
        """After a commit."""
        temperature = session.sampling.temperature
        for label in labels:
            if not label.ranking.tokens:
                continue
            session.calibration.observe(label.ranking.source, label.ranking.margins, temperature, label.hit)
            self._totals.judged += label.ranking.source == MODEL
            self._totals.first += label.ranking.source == MODEL and label.hit == 0
        if self.trace is not None:
            self.trace.write(session.id, temperature, [label for label in labels if label.ranking.source == self.traced])
        self.calibrations.save_if_due(now)

    def ended(self) -> None:
        """A session is over: what was traced goes to the disk."""
        if self.trace is not None:
            self.trace.flush()

    def close(self) -> None:
        """Writes what is to be kept."""
        self.calibrations.save()
        self.ended()
