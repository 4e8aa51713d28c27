"""Reports as plain numbers: the one place where their fields get the keys of metrics and of `/v1/cluster`.

Promises: a number that is not known, or not finite, is left out: JSON has no infinity and no NaN, and no sum survives them. Numbers by a
label stand under `key.VALUE`.
"""

import math
from dataclasses import fields
from typing import Any

from drafthouse.wire.reports import DrafterReport, DrafterView, GatewayReport, Report, VerifierReport
from drafthouse.wire.totals import DrafterTotals, GatewayTotals, VerifierTotals


def totals_of(report: Report) -> dict[str, float]:
    """What only grows."""
    match report:
        case GatewayReport():
            return _finite(_gateway_totals(report.totals))
        case VerifierReport():
            return _finite(_verifier_totals(report.totals))
        case DrafterReport():
            return _finite(_drafter_totals(report.totals))


def gauges_of(report: Report) -> dict[str, float]:
    """What is of the moment, beyond load and capacity."""
    match report:
        case GatewayReport():
            return _finite({"loop_lag_s": report.loop_lag_s, "loop_cpu_share": report.loop_cpu_share})
        case VerifierReport():
            return _finite(_verifier_gauges(report))
        case DrafterReport():
            return _finite(_drafter_gauges(report))


def as_json(report: Report) -> dict[str, Any]:
    """One replica in `/v1/cluster`."""
    who = report.replica
    own = {"set_aside": dict(report.set_aside)} if isinstance(report, GatewayReport) else {}
    return own | {
        "role": report.role, "replica": who.name, "address": who.address, "pid": who.pid, "node": who.node,
        "fingerprint": who.fingerprint, "load": report.load, "capacity": report.capacity, "totals": totals_of(report),
        "gauges": gauges_of(report), "draining": report.draining, "ranks": list(who.ranks),
        "vocabulary": who.vocabulary, "forward": who.forward, "row_invariant": who.row_invariant, "threads": who.threads,
        "started": round(who.started, 3),
        "settings": report.settings,
        "incompatible": {} if isinstance(report, DrafterReport) else dict(report.incompatible),
    }  # fmt: skip


def _gateway_totals(t: GatewayTotals) -> dict[str, float | None]:
    return {
        "requests": t.requests, "prompt_tokens": t.prompt_tokens, "completion_tokens": t.completion_tokens,
        "failovers": t.failovers, **{f"moves.{reason}": count for reason, count in t.moves.items()},
        **{f"outcome.{outcome}": count for outcome, count in t.outcome.items()},
    }  # fmt: skip


def _verifier_totals(t: VerifierTotals) -> dict[str, float | None]:
    numbers = _fields(t.verify) | _fields(t.stages) | {f"sessions.{event}": count for event, count in _fields(t.sessions).items()}
    numbers |= {"preemptions": t.preemptions, "cached_tokens": t.cached_tokens, "step_faults": t.step_faults}
    return numbers | (_fields(t.paced) if t.paced is not None else {})


def _drafter_totals(t: DrafterTotals) -> dict[str, float | None]:
    numbers = _fields(t.draft) | _fields(t.stages)
    numbers |= {"calibration_labels": t.calibration_labels, "malformed": t.malformed, "pass_faults": t.pass_faults}
    numbers |= {"busy_seconds": t.busy_seconds}
    return numbers | (_fields(t.paced) if t.paced is not None else {})


def _verifier_gauges(r: VerifierReport) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {
        "running": r.running, "waiting": r.waiting, "max_sequences": r.max_sequences,
        "kv_slots_used": r.kv_slots_used, "kv_slots_cached": r.kv_slots_cached, "kv_slots": r.kv_slots, "decoding": r.decoding,
        "goodput": r.goodput, "price": r.price, "price_floor": r.price_floor,
        "step_seconds_base": r.step_seconds_base, "step_seconds_least": r.step_seconds_least, "seconds_per_node": r.seconds_per_node,
        "gate_open": r.gate_open, "best_edge": r.best_edge, "drafters": len(r.drafters),
        "places_per_s": r.places_per_s, "most_steps_to_free": r.most_steps_to_free, "synthetic_acceptance": r.synthetic_acceptance,
    }  # fmt: skip
    for name, view in r.drafters.items():
        numbers |= _view(name, view)
    return numbers


def _view(drafter: str, view: DrafterView) -> dict[str, float | None]:
    return {
        f"trust.{drafter}": view.trust, f"banned.{drafter}": view.banned, f"round_trip_seconds.{drafter}": view.round_trip_seconds
    }  # fmt: skip


def _drafter_gauges(r: DrafterReport) -> dict[str, float | None]:
    return {
        "sessions": r.load, "max_sessions": r.capacity, "pass_ms": r.pass_ms,
        "seconds_per_node": r.seconds_per_node,
        "kv_slots_used": r.kv_slots_used, "kv_slots_cached": r.kv_slots_cached, "kv_slots": r.kv_slots,
        "calibration_brier": r.calibration_brier, "calibration_brier_prior": r.calibration_brier_prior,
    }  # fmt: skip


def _fields(counters: Any) -> dict[str, float | None]:
    """A dataclass of counters."""
    return {f.name: getattr(counters, f.name) for f in fields(counters)}


def _finite(numbers: dict[str, float | None]) -> dict[str, float]:
    return {name: float(number) for name, number in numbers.items() if number is not None and math.isfinite(number)}
