"""What a drafter reports, from its server and engine. Knows no Ray; may be called from any thread."""

from dataclasses import replace

from drafter.server import DrafterServer
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.policy.selection import price
from drafthouse.wire.reports import DrafterReport, Replica
from drafthouse.wire.totals import DrafterTotals, PacedTotals


def report_of(server: DrafterServer, replica: Replica, settings: str = "") -> DrafterReport:
    engine, allocator = server.loop.engine, server.loop.engine.cache.allocator
    latency = engine.draft.latency if engine.draft is not None else None
    brier = engine.calibrations.brier()
    return DrafterReport(
        replica=replica, draining=not server.takes_sessions, totals=_totals(server), load=len(engine.sessions),
        capacity=engine.config.max_sessions, settings=settings,
        pass_ms=1e3 * latency.seconds(1, 0) if latency is not None else 0.0,
        seconds_per_node=price(1, 0, 1.0, latency) if latency is not None else 0.0,
        kv_slots_used=allocator.count - allocator.free_count, kv_slots_cached=allocator.cached_count, kv_slots=allocator.count,
        calibration_brier=brier.learned if brier is not None else None,
        calibration_brier_prior=brier.prior if brier is not None else None,
    )  # fmt: skip


def _totals(server: DrafterServer) -> DrafterTotals:
    engine = server.loop.engine
    runner = engine.draft.runner if engine.draft is not None else None
    return DrafterTotals(
        draft=replace(engine.totals), stages=engine.stage_totals.counts(), calibration_labels=engine.calibrations.labels,
        malformed=server.malformed, pass_faults=server.loop.faults, busy_seconds=server.loop.busy_seconds,
        paced=PacedTotals(runner.steps, runner.overruns) if isinstance(runner, PacedRunner) else None,
    )  # fmt: skip
