"""`drafthouse bench gateway`: what a token costs between the verifier's step and the client, with no model in the way.

Promises: the gateway is the deployed one behind Serve's HTTP proxy as `drafthouse serve` has it; the verifier's server and its
thread are the real ones around an engine that gives each stream one token a step. CPU time is of whole processes, so it means the
same on a busy machine; rates and gaps do not.
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.gateway.client import Load, run_client
from benchmarks.harness.http_stream import BenchError
from benchmarks.harness.report import Report
from deployments.cli.local_cluster import DeployError, LocalCluster, root_cause
from deployments.cli.options import machine
from deployments.cli.ray_environment import free_ports
from drafthouse.config.serving import ControllerConfig, GatewayConfig, ModelConfig, ServerConfig, ServingConfig
from drafthouse.errors import ConfigError

APPLICATION = "gateway-bench"
READY_TIMEOUT_S = 120.0
WARM_S = 2.0
SPARE = 64
"""Requests beside the streams."""

OPENING_S = 15.0
"""The first streams run this long while others begin."""


@dataclass(frozen=True)
class GatewayOptions:
    streams: tuple[int, ...]
    seconds: float
    step_ms: float


def run_gateway(options: GatewayOptions, console: Console) -> Report:
    """Raises ConfigError naming the option, DeployError where Ray does not start, BenchError when a stream breaks."""
    state = machine()
    http, grpc, dashboard = free_ports(3)
    config = ServingConfig(
        model="scripted", target=ModelConfig(path="demo:target"), draft=None,
        gateway=GatewayConfig(max_ongoing_requests=max(options.streams) + SPARE), controller=ControllerConfig(),
        server=ServerConfig(http_port=http, grpc_port=grpc, dashboard_port=dashboard),
    )  # fmt: skip
    cluster = LocalCluster(config)
    try:
        with console.status("starting Ray"):
            cluster.start()
            _deploy(config, options.step_ms / 1e3)
            longest = _wait_ready(cluster.http_url)
        needed = round((OPENING_S + WARM_S + options.seconds) * 1e3 / options.step_ms)
        if needed > longest:
            raise ConfigError(f"--seconds and --step-ms: a stream would need {needed} tokens, and the demo model's context holds {longest}")
        rows = []
        for streams in options.streams:
            with console.status(f"{streams} streams"):
                rows.append(_measure(Load(http, config.model, streams, options.seconds, WARM_S, longest, _pids())))
    finally:
        cluster.close()
    return {"rows": rows, "settings": {**asdict(options), "machine": state}}


def _deploy(config: ServingConfig, step_s: float) -> None:
    from ray import serve

    from benchmarks.gateway.scripted_replica import ScriptedVerifier
    from controller.replica import ControllerReplica
    from deployments.gateway.replica import Gateway

    small: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}}
    deployments: Any = (ControllerReplica, ScriptedVerifier, Gateway)
    controller, verifier, gateway = (deployment.options(**small) for deployment in deployments)
    controller = controller.bind(config, {})
    verifier = verifier.bind(config, controller, step_s)
    gateway = gateway.options(max_ongoing_requests=config.gateway.max_ongoing_requests + SPARE).bind(config, controller, verifier)
    serve.run_many(
        [serve.RunTarget(gateway, name=APPLICATION, route_prefix="/")],
        wait_for_ingress_deployment_creation=False, wait_for_applications_running=False,
    )  # fmt: skip


def _wait_ready(url: str) -> int:
    """Until a request would be served; the longest text that one may ask for. Raises DeployError."""
    from ray import serve

    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        application = serve.status().applications.get(APPLICATION)
        if application is not None and application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise DeployError(root_cause(application.message))
        try:
            if httpx.get(f"{url}/health/ready", timeout=5.0, trust_env=False).status_code == 200:
                model = httpx.get(f"{url}/v1/models", timeout=5.0, trust_env=False).json()["data"][0]
                return int(model["max_model_len"]) - SPARE
        except (httpx.HTTPError, ValueError, LookupError):
            pass
        time.sleep(0.2)
    raise DeployError(f"the gateway was not ready within {READY_TIMEOUT_S:g} s")


def _pids() -> dict[str, tuple[int, ...]]:
    """Ray names its processes after their actors. The client adds its own."""
    titles = {"gateway": f"ray::ServeReplica:{APPLICATION}:Gateway", "verifier": f"ray::ServeReplica:{APPLICATION}:ScriptedVerifier"}
    found: dict[str, list[int]] = {name: [] for name in (*titles, "proxy", "client")}
    for process in psutil.Process().children(recursive=True):
        command = " ".join(process.cmdline())
        if process.name().startswith("haproxy"):
            found["proxy"].append(process.pid)
        for name, title in titles.items():
            if title in command:
                found[name].append(process.pid)
    if missing := [name for name in titles if not found[name]]:
        raise BenchError(f"no process of the {' and the '.join(missing)} is there")
    return {name: tuple(pids) for name, pids in found.items()}


def _measure(load: Load) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_client, load).result()


COLUMNS: Sequence[tuple[str, str, str]] = (
    ("streams", "streams", ".0f"),
    ("chunks\n/s", "chunks_per_s", ".0f"),
    ("gap ms\nmedian", "gap_ms_p50", ".1f"),
    ("\np99", "gap_ms_p99", ".1f"),
    ("loop ms\nmedian", "loop_wait_ms_p50", ".1f"),
    ("\np99", "loop_wait_ms_p99", ".1f"),
    ("gateway\nus", "gateway_us_per_chunk", ".1f"),
    ("verifier\nus", "verifier_us_per_chunk", ".1f"),
    ("proxy\nus", "proxy_us_per_chunk", ".1f"),
    ("client\nus", "client_us_per_chunk", ".1f"),
)


def print_gateway(console: Console, report: Report) -> None:
    """`loop`: how long a request that needs one turn of the gateway's loop takes, proxy included. `us`: CPU time of a process a chunk."""
    settings = report["settings"]
    title = f"one token a stream every {settings['step_ms']:g} ms, {settings['seconds']:g} s; CPU time a chunk by process"
    table = Table(title=title, title_justify="left", padding=0)
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        table.add_row(*(format(row[key], form) for _, key, form in COLUMNS))
    console.print(table)
