"""What drafts are worth, position by position, as a live run recorded it.

Promises: on the committed path the trace decides which edges a pass drafts and which child is hit.
What the trace does not know is drawn from it: positions where the draft had not run from the same
request, children of nodes off the path from any position of the same workload and temperature.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.trace import Position, TraceRequest
from drafthouse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Text:
    """One request to be simulated: its lengths, its positions, all known, and where edges off the path are drawn from."""

    prompt_tokens: int
    output_tokens: int
    positions: tuple[Position, ...]
    off_path: Sequence[Position]


class Acceptance:
    """The texts of a trace, of one workload or (None) of all. Raises ConfigError naming --workload."""

    def __init__(self, requests: Sequence[TraceRequest], workload: str | None, rng: random.Random):
        self.requests = [r for r in requests if workload in (None, r.workload)]
        if not self.requests:
            known = ", ".join(sorted({r.workload for r in requests}))
            raise ConfigError(f"--workload: the trace has no {workload!r}; it has {known}")
        self._rng = rng
        self._pools: defaultdict[tuple[str, float], list[Position]] = defaultdict(list)
        for r in self.requests:
            self._pools[r.workload, r.temperature] += [p for p in r.positions if p is not None]
        everything = [p for pool in self._pools.values() for p in pool]
        if not everything:
            raise ConfigError(f"--trace, --workload: no request of {workload or 'any workload'} has positions")
        self._texts = [self._text(r, everything) for r in self.requests]

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, index: int) -> Text:
        return self._texts[index]

    def any_text(self) -> Text:
        return self._rng.choice(self._texts)

    def _text(self, request: TraceRequest, everything: list[Position]) -> Text:
        pool = self._pools[request.workload, request.temperature] or everything
        own = [p for p in request.positions if p is not None] or pool
        filled = tuple(self._rng.choice(own) if p is None else p for p in request.positions)
        return Text(request.prompt_tokens, request.output_tokens, filled, pool)
