"""The verifier as a Ray Serve deployment: a thin shell around `VerifierServer`. Knows Ray, and nothing of tokens."""

import asyncio
import os
import time

import ray
from ray import serve
from ray.util import metrics as ray_metrics

from drafthouse.config.live import LiveSettings
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.load_stages import logged
from drafthouse.engine.parallel.invitation import Launcher
from drafthouse.engine.parallel.replica import load_replica
from drafthouse.engine.profiling import latency_of
from drafthouse.stages.build import placed
from drafthouse.telemetry.log_lines import set_up_logs
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.telemetry.spans import spans_from_environment
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Directive
from drafthouse.wire.reports import Replica, VerifierReport
from drafthouse.wire.transport import load_transport
from verifier.engine import VerifierEngine
from verifier.report import report_of
from verifier.server import VerifierServer


@serve.deployment
class VerifierReplica:
    """Serve starts it; requests come over its own data plane, never through a Serve handle."""

    async def __init__(self, config: ServingConfig, controller: serve.handle.DeploymentHandle, ranks: Launcher):
        set_up_logs()
        name = serve.get_replica_context().replica_id.unique_id
        self.drain_s, self.settings = config.verifier.drain_s, LiveSettings(config, self.apply)
        loading = logged("verifier")
        model = load_replica(config.target, ranks, stages=loading)
        stages = placed(config.drafter.stages, "verifier", config.draft, model.runner.vocab_size, config.drafter.shared_noise)
        with loading.stage("latency profile"):
            latency = latency_of(model, config.verifier.step_tokens)
        loading.end()
        self.spans = spans_from_environment("verifier", name, time.perf_counter)
        self.engine = VerifierEngine(model, latency, config.verifier, config.tree, time.perf_counter, stages, spans=self.spans)
        self.engine.grammars.prepare()
        self.server = VerifierServer(self.engine, name, load_transport(config.security.data_plane))
        port = await self.server.start("0.0.0.0", config.verifier.port)
        node = ray.util.get_node_ip_address()
        self.replica = Replica(
            name, f"{node}:{port}", os.getpid(), node, model.fingerprint, model.runner.ranks, model.vocabulary, model.forward,
            model.row_invariant, model.threads,
        )  # fmt: skip
        metrics = MetricsExporter("verifier", name, ray_metrics)
        self.heartbeat = Heartbeat(controller, metrics.exporting(self.report, self.details), config.controller.heartbeat_s, self.follow)
        self.heartbeat.start()

    def report(self) -> VerifierReport:
        round_trips = {name: client.round_trip_s for name, client in self.server.clients.items()}
        incompatible = {name: client.incompatible for name, client in self.server.clients.items() if client.incompatible}
        draining, faults = not self.server.takes_requests, self.server.loop.faults
        return report_of(self.engine, self.replica, draining, faults, round_trips, incompatible, self.settings.digest)

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

    def apply(self, config: ServingConfig) -> None:
        self.server.loop.post(lambda engine: engine.reconfigure(config.verifier, config.tree))

    def follow(self, directive: Directive) -> None:
        self.settings.follow(directive.settings)
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
        if self.spans is not None:
            self.spans.close()
