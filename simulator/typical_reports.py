"""Reports as large as those of a cluster at work, to measure the control plane with."""

from drafthouse.wire.membership import Role
from drafthouse.wire.reports import DrafterReport, DrafterView, GatewayReport, Replica, Report, VerifierReport
from drafthouse.wire.totals import (
    DrafterTotals,
    DraftTotals,
    GatewayTotals,
    SessionEvents,
    StageCounts,
    VerifierTotals,
    VerifyTotals,
)  # fmt: skip

COUNT = 1_000_000
"""Of everything that is counted."""


def typical_report(role: Role, number: int, drafters: tuple[int, ...] = ()) -> Report:
    """Of replica `number`; `drafters` are the numbers of a verifier's."""
    replica = Replica(_name(role, number), f"10.0.{number // 250}.{number % 250}:41234", 1000 + number, "10.0.0.1", "f" * 32, (), "v" * 16)
    match role:
        case "gateway":
            totals = GatewayTotals(COUNT, COUNT, COUNT)
            return GatewayReport(replica=replica, load=8, capacity=288, totals=totals)
        case "verifier":
            return VerifierReport(
                replica=replica, load=8, capacity=288, totals=_verifier_totals(), running=8, waiting=0, held_up=0, max_sequences=32,
                kv_slots_used=4000, kv_slots_cached=9000, kv_slots=65536, caches_prefixes=True, decoding=8,
                goodput=900.5, price=0.125, price_floor=0.0, step_seconds_base=0.025, step_seconds_least=0.02,
                step_seconds_running=0.025, prompt_token_seconds=1e-4, seconds_per_node=1e-4,
                gate_open=True, best_edge=0.9,
                drafters={_name("drafter", i): DrafterView(0.9, False, 0.002) for i in drafters}, places_per_s=0.5, most_steps_to_free=1,
            )  # fmt: skip
        case "drafter":
            return DrafterReport(
                replica=replica, load=8, capacity=288, totals=_drafter_totals(), pass_ms=2.5, seconds_per_node=1e-4,
                kv_slots_used=4000, kv_slots_cached=9000, kv_slots=65536, calibration_brier=0.5, calibration_brier_prior=0.6,
            )  # fmt: skip


def _verifier_totals() -> VerifierTotals:
    verify = VerifyTotals(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
    return VerifierTotals(verify, SessionEvents(COUNT), StageCounts(), preemptions=0, cached_tokens=COUNT, step_faults=0, paced=None)


def _drafter_totals() -> DrafterTotals:
    draft = DraftTotals(COUNT, COUNT, float(COUNT), COUNT)
    return DrafterTotals(draft, StageCounts(), calibration_labels=COUNT, malformed=0, pass_faults=0, busy_seconds=float(COUNT), paced=None)


def _name(role: Role, number: int) -> str:
    return f"{role.capitalize()}Replica#{number:08x}"
