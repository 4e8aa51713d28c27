"""What a verifier reports, from its engine. Knows no Ray; may be called from any thread."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.wire.fields import shown
from drafthouse.wire.reports import DrafterView, Replica, VerifierReport
from drafthouse.wire.totals import PacedTotals, VerifierTotals
from verifier.engine import VerifierEngine


def report_of(
    engine: VerifierEngine,
    replica: Replica,
    draining: bool,
    step_faults: int,
    round_trips: Mapping[str, float | None],
    incompatible: Mapping[str, str] = MappingProxyType({}),
    settings: str = "",
) -> VerifierReport:
    """`round_trips` are in seconds, by drafter; None before the first. `incompatible`: drafters that could not be talked to, and why."""
    scheduler, pricing, allocator = engine.scheduler, engine.pricing, engine.scheduler.allocator
    return VerifierReport(
        replica=replica, draining=draining, totals=_totals(engine, step_faults),
        load=scheduler.in_service + len(scheduler.waiting), capacity=scheduler.config.max_sequences + scheduler.config.max_queue,
        running=scheduler.in_service, waiting=len(scheduler.waiting), held_up=scheduler.held_up,
        max_sequences=scheduler.config.max_sequences,
        kv_slots_used=allocator.count - allocator.free_count, kv_slots_cached=allocator.cached_count, kv_slots=allocator.count,
        caches_prefixes=allocator.prefixes is not None, decoding=engine.draft_sessions.decoding,
        goodput=pricing.meter.rate, price=pricing.price, price_floor=pricing.price_floor, step_seconds_base=pricing.plain_s,
        step_seconds_least=engine.latency.seconds(1, 0), step_seconds_running=_step_seconds(engine),
        prompt_token_seconds=_prompt_token_seconds(engine), seconds_per_node=pricing.seconds_per_node,
        gate_open=engine.session_policy.gate.open, best_edge=engine.session_policy.gate.best_edge,
        drafters=_drafters(engine, round_trips), places_per_s=engine.admission.places_per_s,
        most_steps_to_free=engine.admission.most_steps_to_free, synthetic_acceptance=engine.verification.synthetic_rate,
        incompatible={**incompatible, **_unfit(engine)}, settings=settings,
    )  # fmt: skip


def _step_seconds(engine: VerifierEngine) -> float:
    """Of all that run, each with its root alone."""
    allocator = engine.scheduler.allocator
    return engine.latency.seconds(max(1, engine.scheduler.in_service), allocator.count - allocator.free_count)


def _prompt_token_seconds(engine: VerifierEngine) -> float:
    """In steps that prompts fill."""
    tokens = engine.scheduler.config.step_tokens
    return engine.pricing.lateness * engine.latency.seconds(tokens, 0) / tokens


def _totals(engine: VerifierEngine, step_faults: int) -> VerifierTotals:
    runner = engine.runner
    return VerifierTotals(
        verify=replace(engine.totals), sessions=replace(engine.draft_sessions.events), stages=engine.local.totals.counts(),
        preemptions=engine.scheduler.preemptions, cached_tokens=engine.scheduler.cached_tokens, step_faults=step_faults,
        paced=PacedTotals(runner.steps, runner.overruns) if isinstance(runner, PacedRunner) else None,
    )  # fmt: skip


def _unfit(engine: VerifierEngine) -> dict[str, str]:
    records = engine.draft_sessions.records
    return {name: shown(record.unfit) for name in list(engine.draft_sessions.drafters) if (record := records.get(name)) and record.unfit}


def _drafters(engine: VerifierEngine, round_trips: Mapping[str, float | None]) -> dict[str, DrafterView]:
    """A drafter of which nothing is known yet is trusted."""
    now, views = engine.clock(), {}
    for name in list(engine.draft_sessions.drafters):
        record = engine.draft_sessions.records.get(name)
        trust, banned = (record.standing.trust_record.ratio, record.standing.banned(now)) if record is not None else (1.0, False)
        views[name] = DrafterView(trust, banned, round_trips.get(name))
    return views
