"""The controller's deployment under heartbeats, on a Ray Serve of this machine, called as replicas call it.

Promises: callers are processes of their own with many calls in flight, so the controller is what is short, as
far as the machine has a core for each; its own CPU time is measured beside the rate. Ray is gone afterwards.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks.heartbeats.bench import due, pool
from deployments.cli.local_cluster import DeployError, LocalCluster, root_cause
from deployments.cli.ray_environment import free_port
from drafthouse.config.serving import ServerConfig, ServingConfig
from drafthouse.wire.reports import Report

CALLERS = 2
START_TIMEOUT_S = 120.0
IN_FLIGHT = 32
"""Calls of each caller at a time."""


def run_served(sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Raises DeployError where Ray does not start."""
    server = ServerConfig(http_port=free_port(), grpc_port=free_port(), dashboard_port=free_port())
    cluster = LocalCluster(ServingConfig(server=server))
    try:
        cluster.start()
        return [_measure(replicas, seconds, cluster.config) for replicas in sizes]
    finally:
        cluster.close()


def _measure(replicas: int, seconds: float, config: ServingConfig) -> dict[str, Any]:
    import ray
    from ray import serve

    from controller.replica import ControllerReplica

    name = f"heartbeats-{replicas}"
    deployment: Any = ControllerReplica
    target = serve.RunTarget(deployment.options(ray_actor_options={"num_cpus": 0.1}).bind(config, {}), name=name, route_prefix=None)
    # Not serve.run, which waits for the proxies too: nothing goes through them here.
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    _wait_running(name)
    handle = serve.get_app_handle(name)
    reports = pool(replicas)
    caller = ray.remote(num_cpus=0)(_Caller)
    callers = [caller.remote(handle, reports[i::CALLERS]) for i in range(CALLERS)]
    ray.get([c.join.remote() for c in callers])
    process = _controller_process(name)
    cpu_before, started = sum(process.cpu_times()[:2]), time.perf_counter()
    latencies = np.concatenate(ray.get([c.call_for.remote(seconds) for c in callers]))
    elapsed, cpu = time.perf_counter() - started, sum(process.cpu_times()[:2]) - cpu_before
    for c in callers:
        ray.kill(c)
    serve.delete(name)
    return {
        **due(replicas, config.controller), "sustained_per_s": len(latencies) / elapsed,
        "median_ms": 1e3 * float(np.median(latencies)), "p99_ms": 1e3 * float(np.quantile(latencies, 0.99)),
        "cpu_ms": 1e3 * cpu / len(latencies), "cpu_share": cpu / elapsed,
    }  # fmt: skip


def _wait_running(name: str) -> None:
    from ray import serve

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        application = serve.status().applications.get(name)
        if application is not None and application.status == "RUNNING":
            return
        if application is not None and application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise DeployError(root_cause(application.message))
        time.sleep(0.2)
    raise DeployError(f"the controller did not run within {START_TIMEOUT_S:.0f} s")


def _controller_process(application: str) -> psutil.Process:
    """Ray names its processes after their actors."""
    title = f"ray::ServeReplica:{application}:ControllerReplica"
    return next(p for p in psutil.process_iter(["cmdline"]) if any(title in part for part in p.info["cmdline"] or ()))


class _Caller:
    """A process that reports for some replicas."""

    def __init__(self, handle: Any, reports: Sequence[Report]) -> None:
        self._handle, self._reports = handle, reports

    async def join(self) -> None:
        """All report once."""

        async def report(reports: Sequence[Report]) -> None:
            for each in reports:
                await self._handle.heartbeat.remote(each)

        await asyncio.gather(*(report(self._reports[i::IN_FLIGHT]) for i in range(IN_FLIGHT)))

    async def call_for(self, seconds: float) -> list[float]:
        """Latencies in seconds, of heartbeats that each began within `seconds`."""
        deadline = time.perf_counter() + seconds
        parts = [self._reports[i::IN_FLIGHT] for i in range(IN_FLIGHT)]
        done = await asyncio.gather(*(self._turn(part, deadline) for part in parts if part))
        return [latency for latencies in done for latency in latencies]

    async def _turn(self, reports: Sequence[Report], deadline: float) -> list[float]:
        latencies: list[float] = []
        while (started := time.perf_counter()) < deadline:
            await self._handle.heartbeat.remote(reports[len(latencies) % len(reports)])
            latencies.append(time.perf_counter() - started)
        return latencies
