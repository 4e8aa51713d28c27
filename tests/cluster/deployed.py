"""A Ray cluster with the application deployed as on a real one, by Serve's REST API, so that it can be scaled and upgraded."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import yaml

from deployments.cli.ray_environment import free_port

CONFIG = pathlib.Path(__file__).parents[2] / "deployments" / "serve_config.yaml"
RAY = pathlib.Path(sys.executable).parent / "ray"
START_S, READY_S, POLL_S = 120.0, 180.0, 0.2
ASKED = 25
DEPLOY_TIMEOUT_S = 600.0


class Deployed:
    """The shipped file but for ports, with `args` over its own, section by section."""

    def __init__(self, folder: pathlib.Path, **args: dict[str, Any]):
        self.http_port, self.grpc_port, self._log = free_port(), free_port(), folder / "ray.log"
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        self._config["http_options"]["port"], self._config["grpc_options"]["port"] = self.http_port, self.grpc_port
        [self._application] = self._config["applications"]
        for section, keys in args.items():
            self._application["args"][section] = {**self._application["args"][section], **keys}

    def _start_ray(self) -> None:
        """Raises AssertionError when its processes did not come up in the 30 s that Ray gives them."""
        dashboard = free_port()
        self._dashboard = f"http://127.0.0.1:{dashboard}"
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        ports = {name: free_port() for name in ("port", "ray-client-server-port", "dashboard-agent-listen-port")}
        command = [RAY, "start", "--head", "--block", "--num-cpus=8", f"--dashboard-port={dashboard}"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=CONFIG.parents[1], start_new_session=True
            )
        while b"Ray runtime started" not in self._log.read_bytes():
            assert self._head.poll() is None, self._log.read_text(encoding="utf-8")[-2000:]
            time.sleep(0.2)

    def deploy(self, **deployments: dict[str, Any]) -> None:
        """Options of single deployments, as Serve's config file has them: a change of `num_replicas` scales, one of
        `ray_actor_options` upgrades. Returns when Serve has taken them in."""
        self._application["deployments"] = [{"name": name, **options} for name, options in deployments.items()]
        answer = httpx.put(f"{self._dashboard}/api/serve/applications/", json=self._config, timeout=DEPLOY_TIMEOUT_S, trust_env=False)
        assert answer.status_code == 200, answer.text

    def start(self, **deployments: dict[str, Any]) -> "Deployed":
        try:
            self._start_ray()
        except AssertionError:  # a busy machine: the second time its files are in the page cache
            self._start_ray()
        self.until(lambda: self._get(f"{self._dashboard}/api/version") is not None, "Ray's dashboard", START_S)
        self.deploy(**deployments)
        self.until(lambda: self._get(f"{self.url}/health/ready") is not None, "the first verifier", READY_S)
        return self

    def stop(self) -> None:
        if self._head.poll() is not None:
            return
        head = psutil.Process(self._head.pid)
        started = head.children(recursive=True)
        self._head.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs([*started, head], timeout=15)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended just now
                process.kill()

    def controller_pid(self) -> int:
        applications = httpx.get(f"{self._dashboard}/api/serve/applications/", timeout=30, trust_env=False).json()["applications"]
        [replica] = applications["drafthouse"]["deployments"]["ControllerReplica"]["replicas"]
        pid: int = replica["pid"]
        return pid

    def _get(self, url: str) -> dict[str, Any] | None:
        try:
            answer = httpx.get(url, timeout=10, trust_env=False)
        except httpx.TransportError:
            return None
        body: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return body or None

    def pool(self, role: str) -> list[dict[str, Any]]:
        """The replicas' reports; none while there is no controller."""
        cluster = self._get(f"{self.url}/v1/cluster")
        return list(cluster["pools"][role]) if cluster else []

    def totals(self, role: str) -> dict[str, float]:
        """On a machine with too much to do the controller may be late: asked again."""
        for _ in range(ASKED):
            if (cluster := self._get(f"{self.url}/v1/cluster")) is not None:
                return dict(cluster["totals"][role])
            time.sleep(POLL_S)
        raise AssertionError(f"{self.url}/v1/cluster does not answer")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        """Counts its own polls, so that a machine that stands still for a while does not fail a test."""
        for _ in range(int(seconds / POLL_S)):
            if condition():
                return
            time.sleep(POLL_S)
        raise AssertionError(f"waited {seconds:.0f} s for: {what}; {str(self._get(f'{self.url}/v1/cluster'))[:3000]}")
