"""What a process counts of its stages."""

from collections import Counter
from dataclasses import dataclass, field

from drafthouse.wire.totals import StageCounts


@dataclass(slots=True)
class StageTotals(StageCounts):
    """Beside what is reported, the nodes by source, for metrics."""

    by_source: Counter[int] = field(default_factory=Counter)

    def counts(self) -> StageCounts:
        """A copy, without `by_source`."""
        return StageCounts(self.stage_nodes, self.stage_seconds, self.stage_faults, self.stage_rests)
