"""How many replicas each pool should have, from what one more would add and one fewer would lose (docs/design.md 7).

Promises: pure; never outside the bounds, nor beside the size that Serve was told last; no second change before the first has come about
and a cool-down and a delay have passed; between the two thresholds a pool rests, so noise moves nothing. Designs weighed:
docs/autoscaling.md.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from controller.cluster_goodput import ClusterGoodput
from controller.gateway_size import GatewayLoad, GatewaySize
from drafthouse.config.autoscaling import AutoscalingConfig, GatewayBounds, PoolBounds

KEEP_SHARE = 0.5
"""A replica goes when it adds less than this share of what one more must add. The gap is the hysteresis: what pays at n pays at n + 1."""

GROWN, SHRUNK = 4, 10
"""At most one in so many more, or fewer, at once: what is known is the worth of one. Pools of few change by one."""

RETRY_S = 600.0
"""Drafts that seemed to pay and did not are trusted to be worth what they were for this long: else drafters would come and go."""

POOLS = ("gateway", "verifier", "drafter")


@dataclass(frozen=True, slots=True)
class Worth:
    """In shares of what a verifier commits on average: what one more replica would add, one fewer would lose; `first`: what the first
    drafter would, by price and best edge. None: not known; an idle look knows of no `first`, since there was nothing to draft for."""

    more: float | None
    fewer: float | None
    first: float | None = None

    @property
    def lowest_kept(self) -> float | None:
        """What is lost with one fewer; never less than what one more would add, since each adds less than the one before."""
        return None if self.fewer is None else max(self.fewer, self.more or 0.0)


def worths(goodput: ClusterGoodput) -> dict[str, Worth]:
    """By pool. Where nothing is committed nothing is lost."""
    verifiers = len(goodput.committed_per_s_by_verifier)
    unit = goodput.committed_per_s / verifiers if verifiers else 0.0

    def share(tokens_per_s: float | None) -> float | None:
        return None if tokens_per_s is None else tokens_per_s / unit if unit > 0.0 else 0.0

    return {
        "verifier": Worth(share(goodput.one_more_verifier_per_s), share(goodput.one_fewer_verifier_per_s)),
        "drafter": Worth(
            share(goodput.one_more_drafter_per_s),
            share(goodput.one_fewer_drafter_per_s),
            share(goodput.first_drafter_per_s) if unit > 0.0 else None,
        ),
    }


@dataclass(slots=True)
class PoolSize:
    """One pool. `desired` is the last verdict, `reason` why; both for people too."""

    bounds: PoolBounds
    desired: int | None = None
    reason: str = "nothing is known yet"
    _ordered: int | None = None
    _changing: bool = False
    _quiet_until: float = -math.inf
    _samples: deque[tuple[float, Worth]] = field(default_factory=deque)
    _disappointed: tuple[float, float] | None = None  # until when, and what drafts were worth

    def decide(self, ordered: int, live: int, worth: Worth, now: float) -> int:
        """`ordered`: what Serve was told last; `live`: replicas that report and do not drain. Returns what Serve is to be told."""
        self._note_change(ordered, live, now)
        self.desired, self.reason = self._verdict(ordered, live, worth, now)
        return self.desired

    def _note_change(self, ordered: int, live: int, now: float) -> None:
        """What was seen before a change has come about, or within the cool-down after it, says nothing of the pool as it is then."""
        changed = ordered != self._ordered or live > ordered
        if changed or (self._changing and live == ordered):
            self._ordered, self._changing = ordered, live != ordered
            self._quiet_until = now + self.bounds.cool_down_s
        if now < self._quiet_until:
            self._samples.clear()

    def _verdict(self, ordered: int, live: int, worth: Worth, now: float) -> tuple[int, str]:
        low, high = self.bounds.min, self.bounds.max
        if not low <= ordered <= high:
            return min(max(ordered, low), high), f"bounds: {low} to {high}"
        if live > ordered:
            return ordered, f"{live - ordered} are leaving"
        if now < self._quiet_until:
            return ordered, "cools down after a change"
        if ordered == 0:
            worth = self._sobered(worth, now)
        if worth.more is None and worth.fewer is None:
            return ordered, "too little is known"
        self._samples.append((now, worth))
        while len(self._samples) > 2 and self._samples[1][0] <= now - max(self.bounds.up_delay_s, self.bounds.down_delay_s):
            self._samples.popleft()
        return self._weighed(ordered, live, now)

    def _weighed(self, ordered: int, live: int, now: float) -> tuple[int, str]:
        low, high, least = self.bounds.min, self.bounds.max, self.bounds.min_gain_share
        last = self._samples[-1][1]
        more = self._mean([(t, w.more) for t, w in self._samples], self.bounds.up_delay_s, now)
        kept = self._mean([(t, w.lowest_kept) for t, w in self._samples], self.bounds.down_delay_s, now)
        # The last one too: when the load has just changed, the mean is of what was before.
        if more is not None and min(more, last.more or 0.0) >= least:
            said = f"one more would add {more:.2f} of a verifier's goodput, {least:.2f} is asked"
            if ordered >= high:
                return ordered, f"{said}; {high} is the most"
            if live < ordered:
                return ordered, f"{said}; {ordered - live} ordered before have yet to come"
            return min(high, ordered + max(1, ordered // GROWN)), said
        if kept is not None and max(kept, last.lowest_kept or 0.0) <= KEEP_SHARE * least and live > 0:
            said = f"the last one adds {kept:.2f} of a verifier's goodput, {KEEP_SHARE * least:.2f} keeps it"
            lower = max(low, live - max(1, live // SHRUNK))
            if lower == 0:
                self._note_disappointment(now)
            return (lower, said) if lower < ordered else (ordered, f"{said}; {low} is the least")
        return ordered, "rests: " + ", ".join(
            f"{name} {_shown(value)}" for name, value in (("one more adds", more), ("one fewer loses", kept))
        )

    def _mean(self, samples: list[tuple[float, float | None]], over_s: float, now: float) -> float | None:
        """Over the last `over_s` seconds; None before there are so many."""
        values = [value for t, value in samples if t >= now - over_s and value is not None]
        return fmean(values) if values and samples[0][0] <= now - over_s else None

    def _note_disappointment(self, now: float) -> None:
        """The last one goes: for lack of traffic, or though drafts should have paid. Only looks that were not idle can tell."""
        busy = [w for _, w in self._samples if w.first is not None]
        brought = fmean(w.lowest_kept or 0.0 for w in busy) if busy else math.inf
        if brought <= KEEP_SHARE * self.bounds.min_gain_share and all(
            w.first is not None and w.first >= self.bounds.min_gain_share for w in busy
        ):
            self._disappointed = now + RETRY_S, brought

    def _sobered(self, worth: Worth, now: float) -> Worth:
        """A first drafter is worth no more than the last one was found to be, when that fell short of what price and best edge promised."""
        if self._disappointed is None or now >= self._disappointed[0]:
            self._disappointed = None
            return worth
        return Worth(min(worth.more or 0.0, self._disappointed[1]), worth.fewer, worth.first)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class SizeShown:
    """One pool in `/v1/cluster`. `ordered` and bounds are None where the size is fixed by the configuration."""

    actual: int
    desired: int
    reason: str
    least: int | None = None
    most: int | None = None


def _size_of(bounds: PoolBounds | GatewayBounds) -> PoolSize | GatewaySize:
    return GatewaySize(bounds) if isinstance(bounds, GatewayBounds) else PoolSize(bounds)


class PoolSizes:
    """All pools, verifiers and drafters by what replicas are worth, gateways by their own load. `fixed`: their `replicas` in the
    configuration, with which they start, and which those without bounds keep."""

    def __init__(self, config: AutoscalingConfig, fixed: Mapping[str, int]) -> None:
        bounds = {pool: getattr(config, pool) for pool in POOLS}
        self.scaled = {pool: _size_of(b) for pool, b in bounds.items() if b is not None}
        self._fixed = fixed

    def reconfigure(self, config: AutoscalingConfig) -> None:
        """What is known of pools that stay scaled is kept."""
        former, bounds = self.scaled, {pool: getattr(config, pool) for pool in POOLS}
        self.scaled = {pool: former.get(pool) or _size_of(b) for pool, b in bounds.items() if b is not None}
        for pool, size in self.scaled.items():
            size.bounds = bounds[pool]

    def decide(
        self, ordered: Mapping[str, int], live: Mapping[str, int], goodput: ClusterGoodput, gateways: GatewayLoad, now: float
    ) -> dict[str, int]:
        """Sizes that Serve is to be told, of pools where they differ from what it was told."""
        worth, wanted = worths(goodput), {}
        for pool, size in self.scaled.items():
            if isinstance(size, GatewaySize):
                wanted[pool] = size.decide(ordered[pool], live[pool], gateways, now)
            else:
                wanted[pool] = size.decide(ordered[pool], live[pool], worth[pool], now)
        return {pool: count for pool, count in wanted.items() if count != ordered[pool]}

    @property
    def desired(self) -> dict[str, int]:
        """By pool."""
        told = {pool: size.desired for pool, size in self.scaled.items() if size.desired is not None}
        return {**self._fixed, **told}

    def as_json(self, live: Mapping[str, int]) -> dict[str, Any]:
        """Actual and desired sizes, and the reason."""
        return {pool: asdict(self._shown(pool, live[pool])) for pool in POOLS}

    def _shown(self, pool: str, live: int) -> SizeShown:
        size, desired = self.scaled.get(pool), self.desired[pool]
        if size is None:
            return SizeShown(live, desired, "fixed by the configuration")
        return SizeShown(live, desired, size.reason, size.bounds.min, size.bounds.max)
