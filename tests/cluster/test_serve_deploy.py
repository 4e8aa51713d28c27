"""The shipped config file through Ray's own `serve deploy`, on a Ray cluster that Drafthouse did not start."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

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


@pytest.mark.timeout(400)
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
