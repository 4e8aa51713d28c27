"""The controller's Ray shell: a clock around the registry.

Promises: nothing on the per-token path; with one replica, its state is the whole, and a restarted
one has it back after one round of heartbeats. The cluster's goodput goes to Serve's log every GOODPUT_LOG_S.
"""

import logging
import os
import time
from typing import Any

import ray
from ray import serve
from ray.util import metrics as ray_metrics

from controller.cluster_metrics import cluster_numbers
from controller.registry import Registry
from drafthouse.config import ServingConfig
from drafthouse.membership import Directive, Report
from drafthouse.metrics_exporter import MetricsExporter

logger = logging.getLogger("ray.serve")  # the one that Serve writes to its files

GOODPUT_LOG_S = 10.0

EXPORT_S = 2.0
"""Ray itself passes metrics on every 10 s."""


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class ControllerReplica:
    """Methods are coroutines without an await: they run one at a time, on the replica's loop."""

    def __init__(self, config: ServingConfig) -> None:
        self._config, self._registry = config, Registry(config.controller)
        self._metrics = MetricsExporter("controller", serve.get_replica_context().replica_id.unique_id, ray_metrics)
        self._heartbeats = 0
        self._logged = self._exported = time.monotonic()

    async def heartbeat(self, report: Report) -> Directive:
        now = time.monotonic()
        self._registry.observe(report, now)
        self._heartbeats += 1
        if now >= self._exported + EXPORT_S:
            self._exported = now
            self._metrics.export(lambda: cluster_numbers(self._registry, self._config, self._heartbeats))
        if now >= self._logged + GOODPUT_LOG_S:
            self._logged = now
            logger.info(self._registry.goodput().log_line())
        return self._registry.directive_for(report, now)

    async def snapshot(self) -> dict[str, Any]:
        """The registry's state, and which process holds it."""
        own = {"pid": os.getpid(), "node": ray.util.get_node_ip_address()}
        return {**self._registry.snapshot(time.monotonic()), "controller": own}
