"""The controller's Ray shell: a clock around the registry and the pools' sizes.

Promises: nothing on the per-token path; with one replica, its state is the whole, and a restarted
one has it back after one round of heartbeats. The cluster's goodput goes to Serve's log every GOODPUT_LOG_S, each
change of a pool's size when it is made. Settings that Serve hands over (`user_config`) go to all replicas with their directives; wrong
ones leave the last ones as they are. What Serve was told last is asked of Serve, so neither a restart here nor a
size set by hand confuses the sizes; while Serve does not answer they stay.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import ray
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.util import metrics as ray_metrics

from controller.fingerprints import said_of
from controller.membership_events import MembershipEvents
from controller.pool_sizes import PoolSizes
from controller.registry import Registry
from drafthouse.config.live import LiveSettings, names
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from drafthouse.telemetry.log_lines import set_up_logs
from drafthouse.telemetry.metrics import DRAINING
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.wire.membership import Directive, Role
from drafthouse.wire.reports import GatewayReport, Report

logger = logging.getLogger(__name__)

GOODPUT_LOG_S = 10.0

EXPORT_S = 2.0
"""Ray itself passes metrics on every 10 s."""

SIZES_S = 1.0
"""Between two looks at the pools' sizes."""

FAREWELL_S = 2.0
"""Two heartbeats tell a gateway, and us that its streams have ended; clients that do not read may hold theirs for longer."""

FAREWELL_POLL_S = 0.05


@dataclass(slots=True)
class _Farewell:
    """Which gateways have heard that the cluster stops, and which have reported since that nothing runs there."""

    _told: set[str] = field(default_factory=set)
    _idle: set[str] = field(default_factory=set)

    def told(self, report: GatewayReport) -> None:
        """The answer to this report says it."""
        if report.replica.name in self._told and not report.load:
            self._idle.add(report.replica.name)
        self._told.add(report.replica.name)

    def ended(self, gateways: Iterable[GatewayReport]) -> bool:
        return all(report.replica.name in self._idle for report in gateways)


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class ControllerReplica:
    """All methods but `stop` are coroutines without an await: they run one at a time, on the replica's loop."""

    async def __init__(self, config: ServingConfig, pools: Mapping[str, str]) -> None:
        """`pools`: names of the deployments that may be scaled, by role."""
        set_up_logs()
        context = serve.get_replica_context()
        self._registry = Registry(config.controller)
        self._metrics = MetricsExporter("controller", context.replica_id.unique_id, ray_metrics)
        self._heartbeats = 0
        self._logged = self._exported = time.monotonic()
        self._sizes = PoolSizes(config.autoscaling, {pool: getattr(config, pool).replicas for pool in get_args(Role)})
        self._app, self._pools, self._ordered = context.app_name, pools, dict[str, int]()
        self._settings, self._configured = LiveSettings(config, self._apply), False
        self._refused = ""
        self._fingerprints_told: Set[str] = frozenset()
        self._members = MembershipEvents()
        self._farewell: _Farewell | None = None
        self._scaling = asyncio.get_running_loop().create_task(self._scale())

    async def reconfigure(self, user_config: object) -> None:
        """Called by Serve before the first report, and with each change. Raises ConfigError at the start alone, when there are no settings
        to go on with; those who run then keep theirs."""
        try:
            self._settings.reconfigure(user_config)
        except ConfigError as error:
            if not self._configured:
                raise
            self._settings.fault = str(error)
            logger.error("this user_config cannot be used, the last settings hold on: %s", error)
        else:
            logger.info("settings that differ from args: %s", ", ".join(names(self._settings.said)) or "none")
        self._configured = True

    def _apply(self, config: ServingConfig) -> None:
        self._registry.reconfigure(config.controller)
        self._sizes.reconfigure(config.autoscaling)

    async def sizes(self) -> dict[str, tuple[int, bool]]:
        """By pool that load scales: what Serve was told last, which a change of `args` is to begin with, and whether its bounds are said
        over `args`. As of the last look: while Serve builds the application again it tells nothing of it."""
        said = names(self._settings.said)
        return {pool: (self._ordered[pool], f"autoscaling.{pool}" in said) for pool in self._sizes.scaled if pool in self._ordered}

    async def heartbeat(self, report: Report) -> Directive:
        now = time.monotonic()
        self._registry.observe(report, now)
        self._heartbeats += 1
        if now >= self._exported + EXPORT_S:
            self._exported = now
            self._metrics.export(lambda: cluster_numbers(self._registry, self._sizes.desired, self._heartbeats))
            self._tell_fingerprints()
            self._members.tell(self._registry.pools)
        if now >= self._logged + GOODPUT_LOG_S:
            self._logged = now
            logger.info(self._registry.goodput().log_line())
        directive = replace(self._registry.directive_for(report, now), settings=self._settings.said)
        if self._farewell is None or not isinstance(report, GatewayReport):
            return directive
        self._farewell.told(report)
        return replace(directive, stopping=True)

    async def stop(self) -> bool:
        """Has all gateways end their streams. Returns when none has any, or after FAREWELL_S: False then."""
        self._farewell = self._farewell or _Farewell()
        deadline = time.monotonic() + FAREWELL_S
        while not (ended := self._farewell.ended(self._registry.pools["gateway"].reports())) and time.monotonic() < deadline:
            await asyncio.sleep(FAREWELL_POLL_S)
        return ended

    def _tell_fingerprints(self) -> None:
        """When one has come or gone."""
        verifiers = self._registry.fingerprints()["verifier"]
        if verifiers.keys() != self._fingerprints_told:
            self._fingerprints_told = verifiers.keys()
            logger.log(logging.WARNING if len(verifiers) > 1 else logging.INFO, said_of(verifiers) or "verifier pool: empty")

    async def snapshot(self) -> dict[str, Any]:
        """The registry's state, and which process holds it."""
        own = {"pid": os.getpid(), "node": ray.util.get_node_ip_address()}
        sizes, settings = self._sizes.as_json(self._registry.sizes()), self._settings
        told = {"digest": settings.digest, "keys": names(settings.said), "fault": settings.fault}
        return {**self._registry.snapshot(time.monotonic()), "sizes": sizes, "settings": told, "controller": own}

    async def _scale(self) -> None:
        while True:
            try:
                await self._resize()
                self._refused = ""
            except Exception as error:  # fault boundary: without Serve's answer the sizes stay, and the next look comes
                if str(error) != self._refused:
                    logger.warning("pool sizes stay as they are: %s", error)
                self._refused = str(error)
            await asyncio.sleep(SIZES_S)

    async def _resize(self) -> None:
        """Serve's external scaler interface: what `POST /api/v1/applications/.../scale` of the dashboard calls."""
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        scaled = list(self._sizes.scaled)
        details = {pool: await controller.get_deployment_details.remote(self._app, self._pools[pool]) for pool in scaled}
        self._ordered = ordered = {pool: detail.target_num_replicas for pool, detail in details.items()}
        wanted = self._sizes.decide(
            ordered, self._registry.sizes(), self._registry.goodput(), self._registry.gateway_load(), time.monotonic()
        )
        for pool, count in wanted.items():
            logger.info("%s pool: from %d to %d replicas: %s", pool, ordered[pool], count, self._sizes.scaled[pool].reason)
            await controller.update_deployment_replicas.remote(DeploymentID(name=self._pools[pool], app_name=self._app), count)


def cluster_numbers(registry: Registry, desired: Mapping[str, int], heartbeats: int) -> Numbers:
    """By metric key; `desired` replicas are by role. Figures that nothing is known about are left out."""
    figures = {name: float(value) for name, value in registry.goodput().as_json().items() if isinstance(value, int | float)}
    for role, pool in registry.pools.items():
        figures[f"replicas.{role}"] = float(len(pool))
        figures[f"replicas_desired.{role}"] = float(desired[role])
        if role in DRAINING:
            figures[f"replicas_draining.{role}"] = float(len(pool) - pool.taking())
    figures["sessions"] = float(registry.sessions)
    figures["heartbeat_interval_seconds"] = registry.interval_s
    return Numbers({"heartbeats": float(heartbeats)}, figures)
