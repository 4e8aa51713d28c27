"""The drafter as a Ray Serve deployment: a thin shell around `DrafterServer`. Knows Ray, and nothing of tokens."""

import asyncio
import os
from dataclasses import asdict

import ray
from ray import serve
from ray.util import metrics as ray_metrics

from drafter.calibration_store import CalibrationStore
from drafter.engine import DrafterEngine
from drafter.server import DrafterServer
from drafter.without_model import without_model
from drafthouse.config.cache_files import cache_folder
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.parallel.invitation import Launcher
from drafthouse.engine.parallel.replica import load_replica
from drafthouse.engine.profiling import latency_of
from drafthouse.policy.selection import price
from drafthouse.stages.build import MODEL, by_name
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Report
from drafthouse.wire.transport import load_transport


@serve.deployment
class DrafterReplica:
    """Serve starts it; verifiers dial its data plane directly."""

    async def __init__(self, config: ServingConfig, controller: serve.handle.DeploymentHandle, ranks: Launcher):
        self.name = serve.get_replica_context().replica_id.unique_id
        self.max_sessions = config.drafter.max_sessions
        model = load_replica(config.draft, ranks) if config.draft is not None else without_model(config.target, config.drafter.stages)
        latency = latency_of(model, config.drafter.step_tokens) if isinstance(model, LoadedModel) else None
        self.fingerprint = model.fingerprint
        # Margins with the target's noise and without it are not the same thing, so neither is what is learned of them.
        draft = model.fingerprint if config.drafter.shared_noise else f"{model.fingerprint} own noise"
        calibrations = CalibrationStore(draft, cache_folder("calibration"))
        self.engine = DrafterEngine(model, latency, config.drafter, config.tree, calibrations=calibrations, draft=config.draft)
        self.server = DrafterServer(self.engine, self.name, load_transport(config.security.data_plane))
        port = await self.server.start("0.0.0.0", config.drafter.port)
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        metrics = MetricsExporter("drafter", self.name, ray_metrics)
        self.heartbeat = Heartbeat(controller, metrics.exporting(self.report, self.details), config.controller.heartbeat_s)
        self.heartbeat.start()

    def report(self) -> Report:
        engine, allocator = self.engine, self.engine.cache.allocator
        totals = {name: float(value) for name, value in asdict(engine.totals).items()} | engine.stage_totals.numbers()
        totals["calibration_labels"] = float(engine.calibrations.labels)
        totals |= {"malformed": float(self.server.malformed), "pass_faults": float(self.server.loop.faults)}
        totals["busy_seconds"] = self.server.loop.busy_seconds
        runner = engine.draft.runner if engine.draft is not None else None
        if isinstance(runner, PacedRunner):
            totals |= {"paced_steps": float(runner.steps), "paced_overruns": float(runner.overruns)}
        latency = engine.draft.latency if engine.draft is not None else None
        gauges = {
            "vocab_size": float(engine.vocab_size),
            "sessions": float(len(engine.sessions)),
            "max_sessions": float(self.max_sessions),
            "pass_ms": 1e3 * latency.seconds(1, 0) if latency is not None else 0.0,
            "seconds_per_node": price(1, 0, 1.0, latency) if latency is not None else 0.0,
            "kv_slots_used": float(allocator.count - allocator.free_count),
            "kv_slots": float(allocator.count),
        } | {f"calibration_{name}": value for name, value in engine.calibrations.gauges().items()}
        return Report(
            role="drafter", replica=self.name, address=self.address, pid=os.getpid(), node=ray.util.get_node_ip_address(),
            fingerprint=self.fingerprint, load=len(engine.sessions), capacity=self.max_sessions, totals=totals, gauges=gauges,
            draining=not self.server.takes_sessions, ranks=runner.ranks if runner is not None else (),
        )  # fmt: skip

    def details(self) -> Numbers:
        """What metrics have beyond the report."""
        drafted = by_name({MODEL: self.engine.totals.drafted} | self.engine.stage_totals.by_source)
        totals = {f"drafted_source.{source}": count for source, count in drafted.items()}
        totals |= {"paced_steps": 0.0, "paced_overruns": 0.0}
        return Numbers(totals, {"controller_answers": float(self.heartbeat.answered is True)})

    def check_health(self) -> None:
        if not self.server.loop.alive:
            raise RuntimeError("the drafting thread has died")

    async def __del__(self) -> None:
        """Serve calls it once, when this replica is scaled down or upgraded."""
        await asyncio.gather(self.server.drain(), self.heartbeat.beat())
        await self.heartbeat.stop()
        await self.server.stop()
        self.engine.close()
