"""One pool's replicas as they report, and what all together count per second.

Promises: pure; rates are of replicas that have reported twice, figures of the moment of all; what is not finite counts as nothing.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Generic

from controller.replica_rates import Rates
from drafthouse.wire.reports import AnyReport, DrafterReport, VerifierReport

KV_FULL = 0.8
"""Above this share of KV slots in use a request may wait for some, though there are places."""


@dataclass(frozen=True, slots=True)
class Member(Generic[AnyReport]):
    """A live replica: its last report, and rates, if it has made two."""

    report: AnyReport
    rates: Rates[AnyReport] | None

    def per_s(self, counter: Callable[[AnyReport], float]) -> float:
        return self.rates.per_s(counter) if self.rates is not None else 0.0


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0.0 else None


def finite(figures: Iterable[float]) -> list[float]:
    return [figure for figure in figures if math.isfinite(figure)]


def median_of(figures: Iterable[float]) -> float | None:
    """None where there are none."""
    known = finite(figures)
    return median(known) if known else None


class PoolRates(Generic[AnyReport]):
    def __init__(self, members: Sequence[Member[AnyReport]]):
        self.members: Sequence[Member[AnyReport]] = members
        self.known: list[Member[AnyReport]] = [m for m in members if m.rates is not None]

    @property
    def reports(self) -> list[AnyReport]:
        return [m.report for m in self.members]

    def of(self, counter: Callable[[AnyReport], float]) -> float:
        """Per second, all together."""
        return sum(m.per_s(counter) for m in self.known)

    def share(self, seconds: Callable[[AnyReport], float]) -> float | None:
        """Of the replicas' time that this counter of seconds covers, at most 1."""
        return min(1.0, self.of(seconds) / len(self.known)) if self.known else None


class VerifierRates(PoolRates[VerifierReport]):
    @property
    def committed(self) -> float:
        return self.of(lambda r: r.totals.verify.committed)

    @property
    def accepted(self) -> float:
        return self.of(lambda r: r.totals.verify.accepted)

    @property
    def verified(self) -> float:
        return self.of(lambda r: r.totals.verify.verified)

    @property
    def busy(self) -> float:
        """Seconds in steps and between them."""
        return self.of(lambda r: r.totals.verify.step_seconds) + self.of(lambda r: r.totals.verify.wait_seconds)

    @property
    def between_steps_share(self) -> float | None:
        """Of the busy time, what lies between steps."""
        return ratio(self.of(lambda r: r.totals.verify.wait_seconds), self.busy)

    @property
    def sequence_steps(self) -> float:
        """Each sequence of a step commits what was accepted and one token more."""
        return max(0.0, self.committed - self.accepted)

    @property
    def nodes_per_sequence(self) -> float:
        """Verified in a step."""
        return ratio(self.verified, self.sequence_steps) or 0.0

    @property
    def queue(self) -> int:
        """Requests without a place."""
        return sum(map(_queued, self.reports))

    @property
    def fill(self) -> float | None:
        return _fill([(r.running, r.max_sequences, r.kv_slots_used, r.kv_slots) for r in self.reports])


class DrafterRates(PoolRates[DrafterReport]):
    @property
    def drafted(self) -> float:
        return self.of(lambda r: r.totals.draft.drafted)

    @property
    def refused(self) -> float:
        return self.of(lambda r: r.totals.draft.refused)

    @property
    def utilisation(self) -> float | None:
        return self.share(lambda r: r.totals.busy_seconds)

    @property
    def sessions(self) -> int:
        return sum(r.load for r in self.reports)

    @property
    def fill(self) -> float | None:
        return _fill([(r.load, r.capacity, r.kv_slots_used, r.kv_slots) for r in self.reports])


def _queued(r: VerifierReport) -> int:
    """Without those that the next step admits: a request that came during one waits for its end."""
    short_of_kv = (ratio(r.kv_slots_used, r.kv_slots) or 0.0) > KV_FULL
    return max(0, r.waiting - (0 if short_of_kv else max(0, r.max_sequences - r.running)))


def _fill(members: Sequence[tuple[int, int, int, int]]) -> float | None:
    """(taken, places, KV slots taken, KV slots) of each. Of places, or of KV slots where more of these are taken, on average."""
    return fmean(max(ratio(t, p) or 0.0, ratio(kt, kp) or 0.0) for t, p, kt, kp in members) if members else None
