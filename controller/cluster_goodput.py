"""What the cluster makes of its time: tokens, drafts, predictions, prices, and what one more replica would add.

Promises: pure; counts replicas that are live and have reported twice; a figure that nothing is known
about is None, never a guess. Rates are per second over the window of `ReplicaRates`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from controller.marginal_goodput import (
    first_drafter,
    one_drafter_fewer,
    one_more_drafter,
    one_more_verifier,
    one_verifier_fewer,
)  # fmt: skip
from controller.replica_rates import Rates, finite
from drafthouse.wire.membership import Report


@dataclass(frozen=True, slots=True)
class Member:
    """A live replica: who and how loaded, its last gauges (finite ones), and the rates of its counters."""

    replica: str
    load: int
    gauges: dict[str, float]
    rates: Rates

    @staticmethod
    def of(report: Report, rates: Rates) -> "Member":
        return Member(report.replica, report.load, finite(report.gauges), rates)

    def gauge(self, name: str) -> float:
        return self.gauges.get(name, 0.0)


@dataclass(frozen=True, slots=True)
class ClusterGoodput:
    """`wasted` drafts were drafted and not accepted, `rejected` ones verified and not accepted.

    Predictions are measured over predicted: 1 is right, tokens below 1 mean that drafts promised too much. Prices are in
    tokens per node. Shares are of the replicas' time: `between_steps_share` of the verifiers' busy time, whatever they do
    between steps; fills are of their places, or of their KV slots if more of those are in use. `queue` counts requests that
    wait for a place. `one_more_*` is what one more replica would add, `one_fewer_*` what the pool would lose with one, in
    tokens per second; `first_drafter` what one seems to add where there is none.
    """

    committed_per_s: float
    drafted_per_s: float
    verified_per_s: float
    accepted_per_s: float
    wasted_per_s: float
    rejected_per_s: float
    tokens_over_predicted: float | None
    seconds_over_predicted: float | None
    price_median: float | None
    price_lowest: float | None
    price_highest: float | None
    price_floor: float
    verifier_utilisation: float | None
    between_steps_share: float | None
    drafter_utilisation: float | None
    verifier_fill: float | None
    drafter_fill: float | None
    queue: int
    refused_sessions_per_s: float
    one_more_verifier_per_s: float | None
    one_more_drafter_per_s: float | None
    one_fewer_verifier_per_s: float | None
    one_fewer_drafter_per_s: float | None
    first_drafter_per_s: float | None
    committed_per_s_by_verifier: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def log_line(self) -> str:
        """One line of `name=value`, without the list of verifiers."""
        figures = {name: value for name, value in asdict(self).items() if not isinstance(value, dict) and value is not None}
        return "goodput " + " ".join(f"{name}={value:.4g}" for name, value in figures.items())


def measure(verifiers: Sequence[Member], drafters: Sequence[Member], floor: float) -> ClusterGoodput:
    """`floor`: the price floor in force."""
    v, d = PoolRates(verifiers), PoolRates(drafters)
    prices = [m.gauge("price") for m in verifiers if "price" in m.gauges]
    committed, accepted, verified, drafted = v.of("committed"), v.of("accepted"), v.of("verified"), d.of("drafted")
    return ClusterGoodput(
        committed_per_s=committed, drafted_per_s=drafted, verified_per_s=verified, accepted_per_s=accepted,
        wasted_per_s=max(0.0, drafted - accepted), rejected_per_s=max(0.0, verified - accepted),
        tokens_over_predicted=ratio(committed, v.of("predicted_tokens")),
        seconds_over_predicted=ratio(v.of("run_seconds"), v.of("predicted_seconds")),
        price_median=median(prices) if prices else None, price_lowest=min(prices, default=None),
        price_highest=max(prices, default=None), price_floor=floor,
        verifier_utilisation=v.share("step_seconds"), between_steps_share=ratio(v.of("wait_seconds"), v.busy),
        drafter_utilisation=d.share("busy_seconds"),
        verifier_fill=v.fill("running", "max_sequences"), drafter_fill=d.fill("sessions", "max_sessions"),
        queue=v.waiting, refused_sessions_per_s=d.of("refused"),
        one_more_verifier_per_s=_one_more_verifier(v) if v.known else None,
        one_more_drafter_per_s=_one_more_drafter(v, d, floor) if v.known and (d.known or not drafters) else None,
        one_fewer_verifier_per_s=_one_fewer_verifier(v) if v.known else None,
        one_fewer_drafter_per_s=_one_fewer_drafter(v, d) if v.known and d.known else None,
        first_drafter_per_s=_first_drafter(v) if v.known else None,
        committed_per_s_by_verifier={m.replica: m.rates.get("committed", 0.0) for m in verifiers},
    )  # fmt: skip


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0.0 else None


class PoolRates:
    """One pool's members that have reported twice, and sums over them."""

    def __init__(self, members: Sequence[Member]):
        self.members = members
        self.known = [m for m in members if m.rates]

    def of(self, counter: str) -> float:
        """Per second, all together."""
        return sum(m.rates.get(counter, 0.0) for m in self.known)

    def share(self, seconds: str) -> float | None:
        """Of the replicas' time that this counter of seconds covers, at most 1."""
        return min(1.0, self.of(seconds) / len(self.known)) if self.known else None

    def fill(self, taken: str, places: str) -> float | None:
        """Of places, or of KV slots where more of these are taken, on average; None where no member tells."""
        told = [m for m in self.members if m.gauge(places) > 0.0]
        pairs = ((taken, places), ("kv_slots_used", "kv_slots"))
        return fmean(max(ratio(m.gauge(a), m.gauge(b)) or 0.0 for a, b in pairs) for m in told) if told else None

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return int(sum(map(_queued, self.members)))

    @property
    def busy(self) -> float:
        """Verifiers' seconds in steps and between them, per second."""
        return self.of("step_seconds") + self.of("wait_seconds")

    @property
    def sequence_steps(self) -> float:
        """Each sequence of a step commits what was accepted and one token more."""
        return max(0.0, self.of("committed") - self.of("accepted"))

    @property
    def nodes_per_sequence(self) -> float:
        """Verified in a step."""
        return ratio(self.of("verified"), self.sequence_steps) or 0.0


KV_FULL = 0.8
"""Above this share of KV slots in use a request may wait for some, though there are places."""


def _queued(m: Member) -> float:
    """Without those that the next step admits: a request that came during one waits for its end."""
    short_of_kv = (ratio(m.gauge("kv_slots_used"), m.gauge("kv_slots")) or 0.0) > KV_FULL
    return max(0.0, m.gauge("waiting") - (0.0 if short_of_kv else max(0.0, m.gauge("max_sequences") - m.gauge("running"))))


def _step(v: PoolRates) -> tuple[float, float]:
    """Sequences in a step, and its seconds with the wait before it."""
    steps = v.of("steps")
    return ratio(v.sequence_steps, steps) or 0.0, ratio(v.busy, steps) or 0.0


def _one_more_verifier(v: PoolRates) -> float:
    batch, step_s = _step(v)
    return one_more_verifier(v.of("committed"), len(v.members), batch, v.waiting, step_s, _seconds_per_sequence(v))


def _one_fewer_verifier(v: PoolRates) -> float:
    """By Little's law a mean of steps' sequences times the share of time in steps is in flight."""
    batch, step_s = _step(v)
    fill = v.fill("running", "max_sequences") or 0.0
    return one_verifier_fewer(v.of("committed"), len(v.members), batch * v.busy, v.waiting, fill, step_s, _seconds_per_sequence(v))


def _seconds_per_sequence(v: PoolRates) -> float:
    """What one sequence adds to a step: its token and cached tokens, and the nodes that it brings.

    Verifiers of more than one sequence tell the former: plain step less the shortest step there is, by sequence beyond the first.
    """
    shared = [m for m in v.members if m.gauge("decoding") > 1.0 and m.gauge("step_seconds_base") > m.gauge("step_seconds_least")]
    if not shared:
        return 0.0
    plain = fmean((m.gauge("step_seconds_base") - m.gauge("step_seconds_least")) / (m.gauge("decoding") - 1.0) for m in shared)
    return plain + v.nodes_per_sequence * fmean(m.gauge("seconds_per_node") for m in shared)


def _waited(v: PoolRates, d: PoolRates) -> float:
    """Tokens per second that could be committed while sessions wait for others on their drafter; one with a drafter of its own does not."""
    sessions = sum(m.load for m in d.members)
    shared = 1.0 - min(1.0, len(d.members) / sessions) if sessions else 0.0
    return v.of("committed") * (ratio(v.of("wait_seconds"), v.busy) or 0.0) * shared


def _one_more_drafter(v: PoolRates, d: PoolRates, floor: float) -> float:
    """A session brings what is accepted, by session; one more drafter has room for as many as each of the others has."""
    price = median([m.gauge("price") for m in v.members])
    drafters, sessions = len(d.members), sum(m.load for m in d.members)
    if not drafters:
        return _first_drafter(v)
    without = max(0.0, sum(m.gauge("running") for m in v.members) - sessions) if d.of("refused") > 0.0 else 0.0
    won = v.of("accepted") * min(without / sessions, 1.0 / drafters) if sessions else 0.0
    used = d.share("busy_seconds") or 0.0
    return one_more_drafter(d.of("drafted"), drafters, used, max(price, floor), price, won, _waited(v, d))


def _first_drafter(v: PoolRates) -> float:
    return first_drafter(v.sequence_steps, median([m.gauge("best_edge") for m in v.members]), median([m.gauge("price") for m in v.members]))


def _one_fewer_drafter(v: PoolRates, d: PoolRates) -> float:
    """What is accepted counts as theirs by their share of all nodes; stages in the verifiers would go on without them."""
    share = ratio(d.of("drafted"), d.of("drafted") + v.of("stage_nodes")) or 0.0
    return one_drafter_fewer(share * v.of("accepted"), len(d.members), d.fill("sessions", "max_sessions") or 0.0, _waited(v, d))
