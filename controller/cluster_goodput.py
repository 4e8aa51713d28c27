"""What the cluster makes of its time: tokens, drafts, predictions, prices, and what one more replica would add.

Promises: pure; counts replicas that are live and have reported twice; a figure that nothing is known
about is None, never a guess. Rates are per second over the window of `ReplicaRates`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from controller.marginal_goodput import (
    first_drafter,
    one_drafter_fewer,
    one_more_drafter,
    one_more_verifier,
    one_verifier_fewer,
)  # fmt: skip
from controller.pool_rates import DrafterRates, Member, VerifierRates, finite, median_of, ratio
from drafthouse.wire.reports import DrafterReport, VerifierReport


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


def measure(verifiers: Sequence[Member[VerifierReport]], drafters: Sequence[Member[DrafterReport]], floor: float) -> ClusterGoodput:
    """`floor`: the price floor in force."""
    v, d = VerifierRates(verifiers), DrafterRates(drafters)
    prices = finite(r.price for r in v.reports)
    return ClusterGoodput(
        committed_per_s=v.committed, drafted_per_s=d.drafted, verified_per_s=v.verified, accepted_per_s=v.accepted,
        wasted_per_s=max(0.0, d.drafted - v.accepted), rejected_per_s=max(0.0, v.verified - v.accepted),
        tokens_over_predicted=ratio(v.committed, v.of(lambda r: r.totals.verify.predicted_tokens)),
        seconds_over_predicted=ratio(v.of(lambda r: r.totals.verify.run_seconds), v.of(lambda r: r.totals.verify.predicted_seconds)),
        price_median=median_of(prices), price_lowest=min(prices, default=None), price_highest=max(prices, default=None),
        price_floor=floor, verifier_utilisation=v.share(lambda r: r.totals.verify.step_seconds), between_steps_share=v.between_steps_share,
        drafter_utilisation=d.utilisation, verifier_fill=v.fill, drafter_fill=d.fill, queue=v.queue, refused_sessions_per_s=d.refused,
        one_more_verifier_per_s=_one_more_verifier(v) if v.known else None,
        one_more_drafter_per_s=_one_more_drafter(v, d, floor) if v.known and (d.known or not drafters) else None,
        one_fewer_verifier_per_s=_one_fewer_verifier(v) if v.known else None,
        one_fewer_drafter_per_s=_one_fewer_drafter(v, d) if v.known and d.known else None,
        first_drafter_per_s=_first_drafter(v) if v.known else None,
        committed_per_s_by_verifier={m.report.replica.name: m.per_s(lambda r: r.totals.verify.committed) for m in verifiers},
    )  # fmt: skip


def _step(v: VerifierRates) -> tuple[float, float]:
    """Sequences in a step, and its seconds with the wait before it."""
    steps = v.of(lambda r: r.totals.verify.steps)
    return ratio(v.sequence_steps, steps) or 0.0, ratio(v.busy, steps) or 0.0


def _one_more_verifier(v: VerifierRates) -> float:
    batch, step_s = _step(v)
    return one_more_verifier(v.committed, len(v.members), batch, v.queue, step_s, _seconds_per_sequence(v))


def _one_fewer_verifier(v: VerifierRates) -> float:
    """By Little's law a mean of steps' sequences times the share of time in steps is in flight."""
    batch, step_s = _step(v)
    return one_verifier_fewer(v.committed, len(v.members), batch * v.busy, v.queue, v.fill or 0.0, step_s, _seconds_per_sequence(v))


def _seconds_per_sequence(v: VerifierRates) -> float:
    """What one sequence adds to a step: its token and cached tokens, and the nodes that it brings.

    Verifiers of more than one sequence tell the former: plain step less the shortest step there is, by sequence beyond the first.
    """
    shared = [r for r in v.reports if r.decoding > 1 and r.step_seconds_base > r.step_seconds_least]
    plain = finite((r.step_seconds_base - r.step_seconds_least) / (r.decoding - 1) for r in shared)
    if not plain:
        return 0.0
    return fmean(plain) + v.nodes_per_sequence * fmean(finite(r.seconds_per_node for r in shared) or [0.0])


def _waited(v: VerifierRates, d: DrafterRates) -> float:
    """Tokens per second that could be committed while sessions wait for others on their drafter; one with a drafter of its own does not."""
    shared = 1.0 - min(1.0, len(d.members) / d.sessions) if d.sessions else 0.0
    return v.committed * (v.between_steps_share or 0.0) * shared


def _one_more_drafter(v: VerifierRates, d: DrafterRates, floor: float) -> float:
    """A session brings what is accepted, by session; one more drafter has room for as many as each of the others has."""
    price = median_of(r.price for r in v.reports) or 0.0
    drafters, sessions = len(d.members), d.sessions
    if not drafters:
        return _first_drafter(v)
    without = max(0, sum(r.running for r in v.reports) - sessions) if d.refused > 0.0 else 0
    won = v.accepted * min(without / sessions, 1.0 / drafters) if sessions else 0.0
    return one_more_drafter(d.drafted, drafters, d.utilisation or 0.0, max(price, floor), price, won, _waited(v, d))


def _first_drafter(v: VerifierRates) -> float:
    best_edge, price = median_of(r.best_edge for r in v.reports) or 0.0, median_of(r.price for r in v.reports) or 0.0
    return first_drafter(v.sequence_steps, best_edge, price)


def _one_fewer_drafter(v: VerifierRates, d: DrafterRates) -> float:
    """What is accepted counts as theirs by their share of all nodes; stages in the verifiers would go on without them."""
    share = ratio(d.drafted, d.drafted + v.of(lambda r: r.totals.stages.stage_nodes)) or 0.0
    return one_drafter_fewer(share * v.accepted, len(d.members), d.fill or 0.0, _waited(v, d))
