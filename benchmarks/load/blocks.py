"""What was measured: blocks, each one policy's run through one segment of a trace."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.load.client import Served


@dataclass(frozen=True, slots=True)
class Place:
    """A workload at one load: `load` is the multiple of off's saturation rate, `rate` its requests per second."""

    workload: str
    load: float
    rate: float


@dataclass(frozen=True, slots=True)
class Block:
    """`served` in the order of the segment's trace, which is the same for all policies at one place."""

    place: Place
    segment: int
    policy: str
    served: Sequence[Served]

    @property
    def finish_s(self) -> float:
        """From the first request's due time to the last one's end."""
        return max(s.at_s + s.latency_s for s in self.served)

    @property
    def tokens(self) -> int:
        return sum(s.completion.tokens for s in self.served)


def of(blocks: Iterable[Block], place: Place, policy: str) -> list[Block]:
    """The blocks of one policy at one place, by segment."""
    return sorted((b for b in blocks if b.place == place and b.policy == policy), key=lambda block: block.segment)
