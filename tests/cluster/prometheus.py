"""Prometheus itself, which finds a server's exporters as docs/metrics.md says, and has our rules."""

import pathlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from deployments.cli import sessions
from deployments.cli.ray_environment import free_port
from tests.cluster.serving import Serving

MONITORING = pathlib.Path(__file__).parents[2] / "k8s" / "monitoring"
ALERTS = MONITORING / "alerts.yaml"
TARGETS = "prom_metrics_service_discovery.json"
READY_S = 30.0


@dataclass(frozen=True)
class Series:
    labels: Mapping[str, str]
    value: float


class Prometheus:
    """`program` is the binary. `with` it ends the process."""

    def __init__(self, program: str, folder: pathlib.Path, serving: Serving) -> None:
        session = next(session for session in sessions.marked() if session.http_port == serving.http_port)
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
            "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(session.folder / TARGETS)]}]}],
            "rule_files": [str(ALERTS)],
        }
        file, port = folder / "prometheus.yaml", free_port()
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        self._log = (folder / "prometheus.log").open("w+", encoding="utf-8")
        command = [program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/", timeout=30, trust_env=False)

    def __enter__(self) -> "Prometheus":
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise AssertionError(f"Prometheus does not become ready:\n{self._log.read()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def _is_ready(self) -> bool:
        try:
            return self._client.get("-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[Series]:
        """By now. Raises AssertionError with Prometheus' own words for what it cannot evaluate."""
        return [Series(found["metric"], float(found["value"][1])) for found in self._get("query", query=expression)["result"]]

    def label_values(self, label: str, metric: str) -> list[str]:
        """As a variable of a dashboard gets them."""
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": metric})
        return values

    def rules(self) -> Iterator[dict[str, Any]]:
        for group in self._get("rules")["groups"]:
            yield from group["rules"]

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (answer, parameters)
        return answer["data"]
