"""A real server for a test module: `drafthouse serve` in its own process, on free ports."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import yaml

from deployments.cli.ray_environment import free_port

READY_TIMEOUT_S = 150.0
CHECKOUT = (sys.executable, "-c", "from deployments.cli.main import main; main()")
"""The command `drafthouse` of this checkout."""


class Serving:
    """`overrides` are sections of the config file; ports are added here. Clients of the class send `headers`. The server's
    `environment` is this process's own with Ray's token mode off, since most tests read the dashboard's API. `program` is
    `drafthouse`, of another installation where it says so, run in `cwd`."""

    headers: Mapping[str, str] = {}

    def __init__(
        self,
        folder: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = CHECKOUT,
        cwd: pathlib.Path | None = None,
        **overrides: Any,
    ):
        self.http_port, self.grpc_port, dashboard = (free_port() for _ in range(3))
        config = {**overrides, "server": {"http_port": self.http_port, "grpc_port": self.grpc_port, "dashboard_port": dashboard}}
        self.dashboard_url = f"http://127.0.0.1:{dashboard}"
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.url = f"http://127.0.0.1:{self.http_port}"
        command = [*program, "serve", "--config", str(file)]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"} if environment is None else environment
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=cwd)
        self.lines: list[str] = []
        self._ready, self._said_ready = threading.Event(), False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("ready"):
                self._said_ready = True
                self._ready.set()
        self._ready.set()  # there is nothing more to wait for

    def wait_ready(self) -> "Serving":
        self._ready.wait(READY_TIMEOUT_S)
        if not self._said_ready:
            self.process.kill()
            raise AssertionError("the server did not become ready:\n" + "".join(self.lines[-60:]))
        return self

    def cluster(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}/v1/cluster", headers=self.headers, timeout=30).json()
        return answer

    def pids(self, role: str) -> list[int]:
        return [replica["pid"] for replica in self.cluster()["pools"][role]]

    def totals(self, role: str) -> dict[str, float]:
        totals: dict[str, float] = self.cluster()["totals"].get(role, {})
        return totals

    def complete(self, timeout: float = 120.0, **body: Any) -> dict[str, Any]:
        """POST /v1/completions, plain; raises on anything but 200."""
        answer = httpx.post(f"{self.url}/v1/completions", json={"model": "demo", **body}, headers=self.headers, timeout=timeout)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.2)
        raise AssertionError(f"waited {seconds:.0f} s for: {what}; cluster: {json.dumps(self.cluster())[:3000]}")

    def stop(self) -> int:
        """As Ctrl-C does; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not stop on SIGINT:\n" + "".join(self.lines[-40:])) from None
