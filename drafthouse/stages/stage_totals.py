"""What a process counts of its stages."""

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass
class StageTotals:
    """Of all sessions: nodes that stages without a model added, seconds that they took, how many were dropped for a fault, and rests;
    and the nodes by source. The stage inside the model stage counts too, but for its nodes, which are guesses."""

    stage_nodes: int = 0
    stage_seconds: float = 0.0
    stage_faults: int = 0
    stage_rests: int = 0
    by_source: Counter[int] = field(default_factory=Counter)

    def numbers(self) -> dict[str, float]:
        """Without `by_source`."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self) if f.name != "by_source"}
