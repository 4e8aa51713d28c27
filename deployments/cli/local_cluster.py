"""Ray and the Serve application on this machine, for as long as one process wants them.

Promises: `close` ends every process that `start` began, also after a start that failed half-way, of which nothing stays; of a
session in which Ray ran, the logs stay. Streams that run then end with an error event, and in five seconds all is over. An
application that cannot be deployed is reported by its cause, not by Serve's stack of frames.
"""

import asyncio
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil

from deployments.cli import ray_environment, sessions
from deployments.cli.machine_checks import check_gpus
from deployments.cli.shutdown import APPLICATION, end_application, end_processes, end_watchers, quiet
from deployments.placement import needed_cpus
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.load_stages import LOG_MARK
from drafthouse.errors import ConfigError, DrafthouseError, ModelError

SERVICER = "deployments.api.grpc.servicer.add_inference_to_server"
OBJECT_STORE_BYTES = 128 << 20
"""Nothing of Drafthouse travels through Ray's object store; this is what Ray itself is content with."""

RAY_START_TRIES = 2
POLL_S = 0.25
HEALTH_TIMEOUT_S = 60.0
_EXCEPTION_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Exit|Slots): ", re.MULTILINE)


class DeployError(DrafthouseError):
    """The application could not be brought up; the message is the cause."""


def root_cause(message: str) -> str:
    """The last exception of a traceback in `message` with its text; `message` itself where there is none."""
    starts = [match.start() for match in _EXCEPTION_LINE.finditer(message)]
    return message[starts[-1] :].strip() if starts else message.strip()


def load_lines(logs: pathlib.Path) -> list[str]:
    """What each replica with a model said last about its loading (`drafthouse.engine.load_stages`), from Ray's folder of logs."""
    said = []
    for file in sorted(logs.glob("worker-*.err")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        said += [line.removeprefix(f"{LOG_MARK}: ") for line in lines if line.startswith(LOG_MARK)][-1:]
    return said


def is_final(cause: str) -> bool:
    """Whether what kept a replica from starting will do so again: Serve tries several times, for the sake of ports and busy machines."""
    kind = cause.partition(": ")[0].rpartition(".")[2]
    return kind in (ConfigError.__name__, ModelError.__name__)


class LocalCluster:
    """`address` below is the host to call: the bound one, or the loopback where all interfaces are bound."""

    def __init__(self, config: ServingConfig):
        self.config = config
        host = config.server.host
        self.address = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.http_url = f"http://{self.address}:{config.server.http_port}"
        self.grpc_address = f"{self.address}:{config.server.grpc_port}"
        self.dashboard_url = ""
        self._scratch: pathlib.Path | None = None
        self._session: pathlib.Path | None = None
        self._former: frozenset[pathlib.Path] = frozenset()

    def start(self) -> None:
        """Starts Ray and Serve's proxies. Raises DeployError, and ConfigError where the machine has fewer GPUs than the config asks for."""
        sessions.unlink_dangling()
        self._former = frozenset(sessions.of_process(os.getpid()))
        self._scratch = pathlib.Path(tempfile.mkdtemp(prefix="drafthouse-"))
        ray_environment.prepare(self._scratch, self.config.gateway.max_body_bytes)
        import ray
        from ray import serve
        from ray.serve.config import HTTPOptions, gRPCOptions

        server = self.config.server
        context = self._init_ray()
        self.dashboard_url = f"http://{self.address}:{server.dashboard_port}"
        self._session = pathlib.Path(context.address_info["session_dir"])
        sessions.mark(sessions.Session(self._session, server.http_port, os.getpid(), time.time()))
        check_gpus(self.config, ray.cluster_resources().get("GPU", 0.0))
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(
                http_options=HTTPOptions(host=server.host, port=server.http_port),
                grpc_options=gRPCOptions(port=server.grpc_port, grpc_servicer_functions=[SERVICER], enable_reflection=True),
            )
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise DeployError(f"Serve's controller and proxies did not start: {error}") from error

    def _init_ray(self) -> Any:
        """Ray gives its own processes 30 s to come up, which a busy machine may miss; a second try finds them in the page cache."""
        import ray

        server = self.config.server
        others = set(psutil.Process().children(recursive=True))
        for attempt in range(RAY_START_TRIES):
            try:
                return ray.init(
                    address="local",
                    # CPUs only count places here; a small machine may share its cores among replicas.
                    num_cpus=max(os.cpu_count() or 1, math.ceil(needed_cpus(self.config))),
                    object_store_memory=OBJECT_STORE_BYTES,
                    dashboard_host=server.host,
                    dashboard_port=server.dashboard_port,
                    include_dashboard=True,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except Exception as error:  # Ray raises the bare class where its processes are late
                ray.shutdown()
                # What the first try left half-started still holds the dashboard's port, on which the second would fail.
                end_processes([process for process in psutil.Process().children(recursive=True) if process not in others], timeout_s=0)
                if attempt + 1 == RAY_START_TRIES:
                    raise DeployError(f"Ray did not start: {error}") from error
        raise AssertionError("the last try returns or raises")

    def deploy(self, progress: Callable[[str], None]) -> None:
        """Deploys and returns when every replica runs and `/health/ready` answers 200; `progress` gets a line now and then.

        Raises ConfigError or ModelError from the checks before, DeployError with the cause afterwards.
        """
        from ray import serve

        from deployments.app import build_app

        target = serve.RunTarget(build_app(self.config), name=APPLICATION, route_prefix="/", external_scaler_enabled=True)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        while True:
            application = serve.status().applications.get(APPLICATION)
            if application is not None:
                if application.status == "RUNNING":
                    break
                failed = {name: root_cause(d.message) for name, d in application.deployments.items() if "Error" in d.message}
                if application.status in ("DEPLOY_FAILED", "UNHEALTHY") or any(map(is_final, failed.values())):
                    told = [f"{name}: {cause}" for name, cause in failed.items()]
                    raise DeployError("\n".join(told) or root_cause(application.message))
                counts = (f"{name} {d.replica_states.get('RUNNING', 0)}" for name, d in application.deployments.items())
                progress("; ".join(["replicas running: " + ", ".join(counts), *self.load_lines()]))
            time.sleep(POLL_S)
        progress(f"waiting for {self.http_url}/health/ready")
        self._wait_healthy()

    def load_lines(self) -> list[str]:
        return load_lines(self._session / "logs") if self._session is not None else []

    def _wait_healthy(self) -> None:
        deadline, seen = time.monotonic() + HEALTH_TIMEOUT_S, "no answer"
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"{self.http_url}/health/ready", timeout=5.0, trust_env=False)
                if answer.status_code == 200:
                    return
                seen = f"{answer.status_code}: {answer.text[:500]}"
            except httpx.TransportError as error:
                seen = str(error)
            time.sleep(POLL_S)
        raise DeployError(f"{self.http_url}/health/ready is not 200 after {HEALTH_TIMEOUT_S:.0f} s; last: {seen}")

    def close(self) -> pathlib.Path | None:
        """Ends the application, Serve and Ray. Returns the folder of logs that stays, where Ray ran."""
        started = psutil.Process().children(recursive=True)
        logs = self._session / "logs" if self._session is not None else None
        with quiet(logs):
            if self._session is not None:
                asyncio.run(end_application())
            if (ray := sys.modules.get("ray")) is not None:
                if (node := ray._private.worker._global_node) is not None:
                    end_watchers(node.all_processes)
                ray.shutdown()
            # Ray's agents may hang on a head that is gone.
            end_processes(started, timeout_s=0)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        for folder in set(sessions.of_process(os.getpid())) - self._former:
            if folder == self._session:
                sessions.trim(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        sessions.forget_old()
        return logs
