"""The drafter as a Ray Serve deployment: a thin shell around `DrafterServer`. Knows Ray, and nothing of tokens."""

import asyncio
import os
import time

import ray
from ray import serve
from ray.util import metrics as ray_metrics

from drafter.calibration_store import CalibrationStore
from drafter.engine import DrafterEngine
from drafter.report import report_of
from drafter.server import DrafterServer
from drafter.without_model import WithoutModel, without_model
from drafthouse.config.cache_files import cache_folder
from drafthouse.config.live import LiveSettings
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.load_stages import logged
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.parallel.invitation import Launcher
from drafthouse.engine.parallel.replica import load_replica
from drafthouse.engine.profiling import latency_of
from drafthouse.policy.latency import LatencyModel
from drafthouse.stages.build import MODEL, by_name
from drafthouse.telemetry.log_lines import set_up_logs
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.telemetry.spans import spans_from_environment
from drafthouse.wire.heartbeat import Heartbeat
from drafthouse.wire.membership import Directive
from drafthouse.wire.reports import DrafterReport, Replica
from drafthouse.wire.transport import load_transport


def _load(config: ServingConfig, ranks: Launcher) -> tuple[LoadedModel | WithoutModel, LatencyModel | None]:
    """Without a draft model there is no latency."""
    if config.draft is None:
        return without_model(config.target, config.drafter.stages), None
    loading = logged("drafter")
    model = load_replica(config.draft, ranks, stages=loading)
    with loading.stage("latency profile"):
        latency = latency_of(model, config.drafter.step_tokens)
    loading.end()
    return model, latency


@serve.deployment
class DrafterReplica:
    """Serve starts it; verifiers dial its data plane directly."""

    async def __init__(self, config: ServingConfig, controller: serve.handle.DeploymentHandle, ranks: Launcher):
        set_up_logs()
        name = serve.get_replica_context().replica_id.unique_id
        model, latency = _load(config, ranks)
        # Margins with the target's noise and without it are not the same thing, so neither is what is learned of them.
        draft = model.fingerprint if config.drafter.shared_noise else f"{model.fingerprint} own noise"
        calibrations = CalibrationStore(draft, cache_folder("calibration"))
        self.spans = spans_from_environment("drafter", name, time.perf_counter)
        self.engine = DrafterEngine(
            model, latency, config.drafter, config.tree, time.perf_counter, calibrations, config.draft, self.spans
        )  # fmt: skip
        self.engine.maker.grammars.prepare()
        self.server = DrafterServer(self.engine, name, load_transport(config.security.data_plane))
        port = await self.server.start("0.0.0.0", config.drafter.port)
        node = ray.util.get_node_ip_address()
        pids = self.engine.draft.runner.ranks if self.engine.draft is not None else ()
        self.replica = Replica(
            name, f"{node}:{port}", os.getpid(), node, model.fingerprint, pids, model.vocabulary, model.forward, model.row_invariant,
            model.threads,
        )  # fmt: skip
        self.settings = LiveSettings(config, self.apply)
        metrics = MetricsExporter("drafter", name, ray_metrics)
        self.heartbeat = Heartbeat(controller, metrics.exporting(self.report, self.details), config.controller.heartbeat_s, self.follow)
        self.heartbeat.start()

    def report(self) -> DrafterReport:
        return report_of(self.server, self.replica, self.settings.digest)

    def apply(self, config: ServingConfig) -> None:
        self.server.reconfigure(config.drafter, config.tree)

    def follow(self, directive: Directive) -> None:
        self.settings.follow(directive.settings)

    def details(self) -> Numbers:
        """What metrics have beyond the report."""
        drafted = by_name({MODEL: self.engine.totals.drafted} | self.engine.stage_totals.by_source)
        totals = {f"drafted_source.{source}": count for source, count in drafted.items()}
        totals |= {"paced_steps": 0.0, "paced_overruns": 0.0}
        return Numbers(totals, {"controller_answers": float(self.heartbeat.answered is True)})

    def check_health(self) -> None:
        if trouble := self.server.loop.trouble:
            raise RuntimeError(trouble)

    async def __del__(self) -> None:
        """Serve calls it once, when this replica is scaled down or upgraded."""
        await asyncio.gather(self.server.drain(), self.heartbeat.beat())
        await self.heartbeat.stop()
        await self.server.stop()
        self.engine.close()
        if self.spans is not None:
            self.spans.close()
