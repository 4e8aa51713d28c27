"""The verifier as a Ray Serve deployment: a thin shell around `VerifierServer`. Knows Ray, and nothing of tokens."""

import asyncio
import os
from dataclasses import asdict

import ray
from ray import serve
from ray.util import metrics as ray_metrics

from drafthouse.config.serving import ServingConfig
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.parallel.invitation import Launcher
from drafthouse.engine.parallel.replica import load_replica
from drafthouse.engine.profiling import latency_of
from drafthouse.stages.build import placed
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import SYNTHETIC_GAUGE, Directive, Report
from drafthouse.wire.transport import load_transport
from verifier.engine import VerifierEngine
from verifier.server import VerifierServer


@serve.deployment
class VerifierReplica:
    """Serve starts it; requests come over its own data plane, never through a Serve handle."""

    async def __init__(self, config: ServingConfig, controller: serve.handle.DeploymentHandle, ranks: Launcher):
        self.name = serve.get_replica_context().replica_id.unique_id
        self.drain_s = config.verifier.drain_s
        model = load_replica(config.target, ranks)
        self.fingerprint = model.fingerprint
        stages = placed(config.drafter.stages, "verifier", config.draft, model.runner.vocab_size, config.drafter.shared_noise)
        latency = latency_of(model, config.verifier.step_tokens)
        self.engine = VerifierEngine(model, latency, config.verifier, config.tree, stages=stages)
        self.server = VerifierServer(self.engine, self.name, load_transport(config.security.data_plane))
        port = await self.server.start("0.0.0.0", config.verifier.port)
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        metrics = MetricsExporter("verifier", self.name, ray_metrics)
        self.heartbeat = Heartbeat(controller, metrics.exporting(self.report, self.details), config.controller.heartbeat_s, self.follow)
        self.heartbeat.start()

    def report(self) -> Report:
        engine, scheduler = self.engine, self.engine.scheduler
        return Report(
            role="verifier", replica=self.name, address=self.address, pid=os.getpid(), node=ray.util.get_node_ip_address(),
            fingerprint=self.fingerprint, load=scheduler.in_service + len(scheduler.waiting),
            capacity=scheduler.config.max_sequences + scheduler.config.max_queue, totals=self._totals(), gauges=self._gauges(),
            draining=not self.server.takes_requests, ranks=engine.runner.ranks,
        )  # fmt: skip

    def _gauges(self) -> dict[str, float]:
        engine, scheduler = self.engine, self.engine.scheduler
        allocator = scheduler.allocator
        gauges = {
            "running": float(scheduler.in_service),
            "waiting": float(len(scheduler.waiting)),
            "max_sequences": float(scheduler.config.max_sequences),
            "kv_slots_used": float(allocator.count - allocator.free_count),
            "kv_slots": float(allocator.count),
            "decoding": float(engine.draft_sessions.decoding),
            "goodput": engine.pricing.meter.rate,
            "price": engine.pricing.price,
            "price_floor": engine.pricing.price_floor,
            "step_seconds_base": engine.pricing.plain_s,
            "step_seconds_least": engine.latency.seconds(1, 0),
            "seconds_per_node": engine.pricing.seconds_per_node,
            "gate_open": float(engine.session_policy.gate.open),
            "best_edge": engine.session_policy.gate.best_edge,
            "vocab_size": float(engine.runner.vocab_size),
            "drafters": float(len(engine.draft_sessions.drafters)),
            "places_per_s": engine.admission.places_per_s,
            "most_steps_to_free": float(engine.admission.most_steps_to_free),
        }
        if (synthetic_rate := engine.verification.synthetic_rate) is not None:
            gauges[SYNTHETIC_GAUGE] = synthetic_rate
        return gauges | self._gauges_by_drafter()

    def _gauges_by_drafter(self) -> dict[str, float]:
        engine, gauges = self.engine, dict[str, float]()
        now = engine.clock()
        for name in list(engine.draft_sessions.drafters):
            if (record := engine.draft_sessions.records.get(name)) is not None:
                gauges[f"trust.{name}"] = record.standing.trust_record.ratio
                gauges[f"banned.{name}"] = float(record.standing.banned(now))
        for name, client in self.server.clients.items():
            if client.round_trip_s is not None:
                gauges[f"round_trip_seconds.{name}"] = client.round_trip_s
        return gauges

    def _totals(self) -> dict[str, float]:
        engine = self.engine
        totals = {name: float(value) for name, value in asdict(engine.totals).items()} | engine.local.totals.numbers()
        totals |= {f"sessions.{name}": float(count) for name, count in engine.draft_sessions.events.items()}
        totals["preemptions"] = float(engine.scheduler.preemptions)
        totals["step_faults"] = float(self.server.loop.faults)
        if isinstance(engine.runner, PacedRunner):
            totals |= {"paced_steps": float(engine.runner.steps), "paced_overruns": float(engine.runner.overruns)}
        return totals

    def details(self) -> Numbers:
        """What metrics have beyond the report."""
        engine = self.engine
        pricing = engine.pricing
        gauges = {
            "plain_goodput": pricing.plain_goodput,
            "gain": pricing.meter.gain,
            "synthetic": float(engine.verification.synthetic_rate is not None),
            "controller_answers": float(self.heartbeat.answered is True),
        }
        totals = engine.meter.acceptance.totals() | {"paced_steps": 0.0, "paced_overruns": 0.0}
        return Numbers(totals, gauges, {"queue_seconds": engine.meter.queue_seconds})

    def follow(self, directive: Directive) -> None:
        self.server.set_drafters(directive.drafters)
        self.server.loop.post(lambda engine: engine.pricing.set_price_floor(directive.price_floor))

    def check_health(self) -> None:
        if trouble := self.server.loop.trouble:
            raise RuntimeError(trouble)

    async def __del__(self) -> None:
        """Serve calls it once, when this replica is scaled down or upgraded, and kills the process after drain_s and some seconds."""
        await asyncio.gather(self.server.drain(self.drain_s), self.heartbeat.beat())
        await self.heartbeat.stop()
        await self.server.stop()
