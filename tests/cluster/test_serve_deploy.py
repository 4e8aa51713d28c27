"""The shipped config file through Ray's own `serve deploy`, on a Ray cluster that Drafthouse did not start; then changes of it."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
import yaml

from deployments.cli.ray_environment import free_port

pytestmark = pytest.mark.cluster_long

CONFIG = pathlib.Path(__file__).parents[2] / "deployments" / "serve_config.yaml"
BIN = pathlib.Path(sys.executable).parent
START_S, READY_S = 60.0, 120.0


@pytest.fixture
def dashboard(tmp_path: pathlib.Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address of a Ray head in processes of its own, and the environment to call it from."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=4", f"--port={free_port()}", f"--dashboard-port={port}"]
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path, start_new_session=True)
    children = psutil.Process(head.pid)
    try:
        yield f"http://127.0.0.1:{port}", environment
    finally:
        started = children.children(recursive=True)
        head.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs([*started, children], timeout=15)[1]:
            process.kill()


def _wait_ok(url: str, seconds: float, dashboard: str, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    status = subprocess.run([BIN / "serve", "status", "-a", dashboard], capture_output=True, text=True, env=environment)
    raise AssertionError(f"{url} is not 200 after {seconds:.0f} s; serve status:\n{status.stdout}{status.stderr}")


def _deployments(address: str) -> dict[str, str]:
    """The status of each."""
    applications = httpx.get(f"{address}/api/serve/applications/", timeout=10, trust_env=False).json()["applications"]
    return {name: d["status"] for name, d in applications["drafthouse"]["deployments"].items()}


@pytest.mark.timeout(600)
def test_serve_deploy_of_the_shipped_file(dashboard: tuple[str, dict[str, str]], tmp_path: pathlib.Path) -> None:
    address, environment = dashboard
    _wait_ok(f"{address}/api/version", START_S, address, environment)
    shipped = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    # The file as it is but for ports, of which the machine may have these in use.
    shipped["http_options"]["port"], shipped["grpc_options"]["port"] = http_port, _ = free_port(), free_port()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(shipped), encoding="utf-8")
    subprocess.run([BIN / "serve", "deploy", "config.yaml", "-a", address], check=True, env=environment, cwd=tmp_path, timeout=60)
    _wait_ok(f"http://127.0.0.1:{http_port}/health/ready", READY_S, address, environment)
    body = {"model": "demo", "prompt": "def f(", "max_tokens": 16, "temperature": 0}
    answer = httpx.post(f"http://127.0.0.1:{http_port}/v1/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 16
    healthy = dict.fromkeys(("Gateway", "VerifierReplica", "DrafterReplica", "ControllerReplica"), "HEALTHY")
    deadline = time.monotonic() + READY_S
    while (running := _deployments(address)) != healthy and time.monotonic() < deadline:  # the gateway answers without drafters
        time.sleep(0.5)
    assert running == healthy
    _check_settings_change_while_running(_Application(address, shipped, f"http://127.0.0.1:{http_port}"))


class _Application:
    """The shipped file, deployed. `put` deploys it with other keys."""

    def __init__(self, address: str, config: dict[str, Any], url: str):
        self._address, self._config, self.url = address, config, url
        [self._application] = config["applications"]

    def put(self, settings: object = None, args: dict[str, dict[str, Any]] | None = None) -> None:
        """`settings` are the controller's user_config; `args` go over those of the file, section by section."""
        self._application["deployments"] = [] if settings is None else [{"name": "ControllerReplica", "user_config": settings}]
        for section, keys in (args or {}).items():
            self._application["args"][section] = {**self._application["args"][section], **keys}
        answer = httpx.put(f"{self._address}/api/serve/applications/", json=self._config, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text

    def pids(self) -> dict[str, set[int]]:
        applications = httpx.get(f"{self._address}/api/serve/applications/", timeout=30, trust_env=False).json()["applications"]
        deployments = applications["drafthouse"]["deployments"].items()
        return {name: {replica["pid"] for replica in d["replicas"] if replica["state"] == "RUNNING"} for name, d in deployments}

    def cluster(self) -> dict[str, Any]:
        for _ in range(100):
            answer = httpx.get(f"{self.url}/v1/cluster", timeout=10, trust_env=False)
            if answer.status_code == 200:
                return dict(answer.json())
            time.sleep(0.2)
        raise AssertionError(answer.text)

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The cluster's state as soon as it is so."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if condition(cluster := self.cluster()):
                return cluster
            time.sleep(0.3)
        raise AssertionError(f"waited {READY_S:.0f} s for: {what}; {str(cluster)[:3000]}")

    def complete(self, max_tokens: int) -> httpx.Response:
        body = {"model": "demo", "prompt": "def f(", "max_tokens": max_tokens, "temperature": 0}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=120, trust_env=False)


def _in_force(cluster: dict[str, Any], keys: list[str]) -> bool:
    """Whether the controller and all that report have these settings."""
    told = cluster["settings"]
    return told["keys"] == keys and all(r["settings"] == told["digest"] for pool in cluster["pools"].values() for r in pool)


def _check_settings_change_while_running(app: _Application) -> None:
    """No process goes, no running request notices, and a pool that load scales keeps its size."""
    before, text = app.pids(), app.complete(400).json()["choices"][0]["text"]
    app.put({"autoscaling": {"verifier": {"min": 2, "max": 3}}})
    # One that is about to run reports before Serve says that it runs.
    grown = app.until(
        lambda cluster: len(cluster["pools"]["verifier"]) == len(app.pids()["VerifierReplica"]) == 2, "a second verifier that runs"
    )
    assert grown["sizes"]["verifier"]["most"] == 3
    pids = app.pids()
    assert {name: mine <= pids[name] for name, mine in before.items()} == dict.fromkeys(before, True)
    bounds = {"autoscaling": {"verifier": {"min": 1, "max": 3, "down_delay_s": 3600}}}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(app.complete, 400)
        app.put(bounds | {"gateway": {"limits": {"requests_per_minute": 1}, "max_body_bytes": 1024}, "tree": {"max_nodes": 4}})
        keys = ["autoscaling.verifier", "gateway.limits", "gateway.max_body_bytes", "tree.max_nodes"]
        app.until(lambda cluster: _in_force(cluster, keys), "the new settings everywhere")
        assert running.result().json()["choices"][0]["text"] == text
    codes = [app.complete(1).status_code for _ in range(3)]
    assert 200 in codes[:1]
    assert codes[2] == 429
    app.put(bounds | {"gateway": {"limits": {"streams": 0}}})
    wrong = app.until(lambda cluster: bool(cluster["settings"]["fault"]), "a fault")
    assert wrong["settings"]["fault"].startswith("gateway.limits.streams: must be")
    assert wrong["settings"]["keys"] == keys
    assert app.complete(1).status_code == 429
    app.put(bounds)
    app.until(lambda cluster: _in_force(cluster, ["autoscaling.verifier"]), "the settings of the file, but for the bounds")
    assert app.complete(1).status_code == 200
    assert app.pids() == pids
    app.put(bounds, args={"verifier": {"max_queue": 200}})
    app.until(
        lambda cluster: {r["pid"] for r in cluster["pools"]["verifier"] if not r["draining"]}.isdisjoint(pids["VerifierReplica"]),
        "new verifiers",
    )
    app.until(
        lambda cluster: sum(not r["draining"] for r in cluster["pools"]["verifier"]) == cluster["sizes"]["verifier"]["desired"] == 2,
        "as many new verifiers",
    )
    assert app.complete(400).json()["choices"][0]["text"] == text
