"""What drafts are worth, position by position, as a live run recorded it.

Promises: on the committed path the trace decides which edges a pass drafts and which child is hit.
What the trace does not know is drawn from it: positions where the draft had not run from the same
request, children of nodes off the path from any position of the same workload and temperature.
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drafthouse.errors import ConfigError
from simulator.trace import Position, TraceRequest

MIN_EDGE = 1e-6
"""Edges of zero have no logarithm."""


class Children(NamedTuple):
    """Of one node, in rank order: edges and their logarithms, and the rank of the text's own token among them, or -1."""

    edges: tuple[float, ...]
    logs: tuple[float, ...]
    hit: int


@dataclass(frozen=True, slots=True)
class Text:
    """One request to be simulated: its lengths, its positions, all known, and what is drafted off its path is drawn from.
    `hit_shares[w]`: share of such positions whose hit is among the first `w` children."""

    prompt_tokens: int
    output_tokens: int
    positions: tuple[Children, ...]
    off_path: Sequence[Children]
    hit_shares: tuple[float, ...]

    def expected_children(self, width: int) -> float:
        """Probability that one of `width` children of an accepted node is accepted too: what calibration learns."""
        return self.hit_shares[min(width, len(self.hit_shares) - 1)]


class Acceptance:
    """The texts of a trace, of one workload or (None) of all. Raises ConfigError naming --workload."""

    def __init__(self, requests: Sequence[TraceRequest], workload: str | None, rng: random.Random):
        self.requests = [r for r in requests if workload in (None, r.workload)]
        if not self.requests:
            known = ", ".join(sorted({r.workload for r in requests}))
            raise ConfigError(f"--workload: the trace has no {workload!r}; it has {known}")
        self._rng = rng
        self._pools: defaultdict[tuple[str, float], list[Children]] = defaultdict(list)
        drafted = [[_children(p) if p is not None else None for p in r.positions] for r in self.requests]
        for r, positions in zip(self.requests, drafted, strict=True):
            self._pools[r.workload, r.temperature] += [p for p in positions if p is not None]
        everything = [p for pool in self._pools.values() for p in pool]
        if not everything:
            raise ConfigError(f"--trace, --workload: no request of {workload or 'any workload'} has positions")
        pools = (*self._pools.values(), everything)
        self._off_path = {id(pool): ([p._replace(hit=-1) for p in pool], _hit_shares(pool)) for pool in pools}
        self._texts = [self._text(r, positions, everything) for r, positions in zip(self.requests, drafted, strict=True)]

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, index: int) -> Text:
        return self._texts[index]

    def any_text(self) -> Text:
        return self._rng.choice(self._texts)

    def text_of(self, output_tokens: int) -> Text:
        """Any text, cut to so many output tokens or made longer with positions of its own."""
        text = self.any_text()
        positions = list(text.positions[:output_tokens])
        positions += self._rng.choices(text.positions, k=output_tokens - len(positions))
        return Text(text.prompt_tokens, output_tokens, tuple(positions), text.off_path, text.hit_shares)

    def _text(self, request: TraceRequest, positions: Sequence[Children | None], everything: list[Children]) -> Text:
        pool = self._pools[request.workload, request.temperature] or everything
        own = [p for p in positions if p is not None] or pool
        filled = tuple(self._rng.choice(own) if p is None else p for p in positions)
        return Text(request.prompt_tokens, request.output_tokens, filled, *self._off_path[id(pool)])


def _children(position: Position) -> Children:
    edges, hit = position
    return Children(edges, tuple(math.log(max(edge, MIN_EDGE)) for edge in edges), hit)


def _hit_shares(pool: Sequence[Children]) -> tuple[float, ...]:
    widest = max((len(p.edges) for p in pool), default=0)
    return tuple(sum(0 <= p.hit < width for p in pool) / max(1, len(pool)) for width in range(widest + 1))
