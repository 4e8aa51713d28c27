"""A real Ray cluster with the Serve application on paced devices, for as long as a benchmark wants it.

Promises: started by `drafthouse serve --config` in a process of its own, on free ports; gone after
`close`. Totals are read from `/v1/cluster`, only after the replicas have reported them.
"""

import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from benchmarks.http_stream import BenchError
from deployments.ray_environment import free_port
from drafthouse.config import ServingConfig

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 30.0

Totals = dict[str, float]


@dataclass(frozen=True)
class PacedPair:
    """Tokens from `target` and `draft`, times from the curves, all stretched by `time_scale`; a step has at most `step_tokens`,
    prompt chunks and trees alike, since for a large one the CPU needs longer than the curve allows."""

    target: str
    draft: str
    target_curve: str
    draft_curve: str
    time_scale: float
    threads: int
    step_tokens: int

    def serving_config(self) -> dict[str, Any]:
        """What `drafthouse serve --config` reads."""
        common = {"dtype": "float32", "device": "paced", "threads": self.threads}
        return {
            "model": "paced",
            "target": {"path": self.target, **common, "paced": {"curve": self.target_curve, "time_scale": self.time_scale}},
            "draft": {"path": self.draft, **common, "paced": {"curve": self.draft_curve, "time_scale": self.time_scale}},
            "drafter": {"prefill_tokens": self.step_tokens},
            "verifier": {"step_tokens": self.step_tokens},
            "server": {"http_port": free_port(), "grpc_port": free_port(), "dashboard_port": free_port()},
        }


Sections = Mapping[str, Mapping[str, Any]]
"""Keys of a serving config, by section."""


class PacedServer:
    def __init__(self, pair: PacedPair, more: Sections | None = None):
        """`more` stands over what `pair` says, section by section."""
        data = pair.serving_config()
        for section, keys in (more or {}).items():
            data[section] = {**data.get(section, {}), **keys}
        self.config = ServingConfig.model_validate(data)
        self.url = f"http://127.0.0.1:{self.config.server.http_port}"
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the pools have reported, paired where there are drafters. Raises BenchError with the server's last words."""
        self._folder = tempfile.TemporaryDirectory(prefix="drafthouse-bench-")
        folder = pathlib.Path(self._folder.name)
        (folder / "config.yaml").write_text(yaml.safe_dump(self._data), encoding="utf-8")
        self._log = folder / "serve.log"
        command = [sys.executable, "-c", "from deployments.cli import main; main()", "serve", "--config", str(folder / "config.yaml")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchError(f"drafthouse serve ended with status {self._process.returncode}:\n{self._tail()}")
            try:
                pools = self.cluster()["pools"]
                if self._paired(pools):
                    return
            except (httpx.HTTPError, LookupError, ValueError):
                pass
            time.sleep(0.25)
        raise BenchError(f"drafthouse serve was not ready after {START_TIMEOUT_S:.0f} s:\n{self._tail()}")

    def _paired(self, pools: dict[str, Any]) -> bool:
        if not self.config.drafter.replicas:
            return bool(pools["verifier"])
        return bool(pools["drafter"]) and any(v["gauges"].get("drafters") for v in pools["verifier"])

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()

    def close(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def cluster(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/v1/cluster", timeout=5.0, trust_env=False)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result

    def totals(self, finished: float) -> dict[str, Totals]:
        """Sums by pool, once `finished` requests in all are in them and every replica has reported twice since.

        A drafter learns of a request's end a message later than the client, so one report would not do.
        """
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            if sums(self.cluster(), "verifier").get("finished", 0.0) >= finished:
                time.sleep(2.2 * self.config.controller.heartbeat_s)
                cluster = self.cluster()
                return {role: sums(cluster, role) for role in ("verifier", "drafter")}
            time.sleep(0.1)
        raise BenchError(f"{self.url}/v1/cluster does not count {finished:.0f} finished requests after {SETTLE_TIMEOUT_S:.0f} s")


def sums(cluster: dict[str, Any], role: str) -> Totals:
    """Totals of a pool's replicas, added up."""
    result: Totals = {}
    for replica in cluster["pools"].get(role, []):
        for name, value in replica["totals"].items():
            result[name] = result.get(name, 0.0) + value
    return result


def difference(after: Totals, before: Totals) -> Totals:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
