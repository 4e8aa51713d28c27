"""Reports for tests: of a replica about which only what is named is worth saying."""

from dataclasses import fields
from typing import Any

from drafthouse.wire.membership import Role
from drafthouse.wire.reports import DrafterReport, GatewayReport, Replica, Report, VerifierReport
from drafthouse.wire.totals import (
    DrafterTotals,
    DraftTotals,
    GatewayTotals,
    SessionEvents,
    StageCounts,
    VerifierTotals,
    VerifyTotals,
)  # fmt: skip

VERIFIER: dict[str, Any] = dict(
    running=0, waiting=0, held_up=0, max_sequences=8, kv_slots_used=0, kv_slots_cached=0, kv_slots=0, caches_prefixes=False, decoding=0,
    goodput=0.0, price=0.0, price_floor=0.0, step_seconds_base=0.0, step_seconds_least=0.0, step_seconds_running=0.0,
    prompt_token_seconds=0.0, seconds_per_node=0.0, gate_open=True, best_edge=0.7, drafters={}, places_per_s=0.0, most_steps_to_free=0,
)  # fmt: skip
DRAFTER: dict[str, Any] = dict(pass_ms=0.0, seconds_per_node=0.0, kv_slots_used=0, kv_slots_cached=0, kv_slots=0)


def replica(name: str, fingerprint: str = "f", **more: Any) -> Replica:
    return Replica(name, **{"address": f"{name}:1", "pid": 1, "node": "n", "fingerprint": fingerprint} | more)


def gateway_report(name: str = "g0", load: int = 0, totals: GatewayTotals | None = None, draining: bool = False) -> GatewayReport:
    return GatewayReport(replica=replica(name, ""), load=load, capacity=8, totals=totals or GatewayTotals(), draining=draining)


def verifier_totals(**counters: float) -> VerifierTotals:
    """By the names of `VerifyTotals` or `StageCounts`; 0 otherwise."""
    stages = {name: counters.pop(name) for name in [f.name for f in fields(StageCounts)] if name in counters}
    return VerifierTotals(
        VerifyTotals(**counters), SessionEvents(), StageCounts(**stages), preemptions=0, cached_tokens=0, step_faults=0, paced=None
    )


def drafter_totals(busy_seconds: float = 0.0, **counters: float) -> DrafterTotals:
    """By the names of `DraftTotals`; 0 otherwise."""
    draft = DraftTotals(**counters)
    return DrafterTotals(
        draft, StageCounts(), calibration_labels=0, malformed=0, pass_faults=0, busy_seconds=busy_seconds, paced=None
    )  # fmt: skip


def verifier_report(
    name: str = "v0",
    totals: VerifierTotals | None = None,
    pid: int = 1,
    address: str = "",
    fingerprint: str = "f",
    vocabulary: str = "",
    load: int = 0,
    capacity: int = 8,
    **fields: Any,
) -> VerifierReport:
    who = replica(name, fingerprint, pid=pid, address=address or f"{name}:1", vocabulary=vocabulary)
    return VerifierReport(replica=who, totals=totals or verifier_totals(), load=load, capacity=capacity, **VERIFIER | fields)


def drafter_report(
    name: str = "d0", totals: DrafterTotals | None = None, vocabulary: str = "", load: int = 0, capacity: int = 8, **fields: Any
) -> DrafterReport:
    who = replica(name, vocabulary=vocabulary)
    return DrafterReport(replica=who, totals=totals or drafter_totals(), load=load, capacity=capacity, **DRAFTER | fields)


def report(role: Role, name: str, **fields: Any) -> Report:
    make = {"gateway": gateway_report, "verifier": verifier_report, "drafter": drafter_report}[role]
    return make(name, **fields)
