"""The ablation's server as its client sees it: one application for each configuration with pools of its own.

Promises: started by `benchmarks.ablation.applications` in a process of its own, on free ports; gone after `close`.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from benchmarks.ablation.configurations import CONFIGURATIONS, Sections, laid_over
from benchmarks.harness.paced_server import PacedPair, cluster, paired
from benchmarks.harness.server_process import ServerProcess
from drafthouse.config.faults import describe
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

START_TIMEOUT_S = 480.0
HEARTBEAT_S = 1.0
"""Longer than by default: applications without requests cost their heartbeats, and totals are read between turns."""

GENEROUS_CPUS: Sections = {pool: {"num_cpus": 0} for pool in ("gateway", "verifier", "drafter", "controller")}
"""Only one application works at a time, so places are not what is short."""


class AblationServer:
    def __init__(self, pair: PacedPair, pools: Sequence[str]):
        """Raises ConfigError where this version's config does not know what a configuration asks for."""
        base = pair.serving_config()
        for section, keys in {**GENEROUS_CPUS, "controller": {"num_cpus": 0, "heartbeat_s": HEARTBEAT_S}}.items():
            base[section] = {**base.get(section, {}), **keys}
        self._root = f"http://127.0.0.1:{base['server']['http_port']}"
        self._configs = {name: self._checked(base, name) for name in pools}
        self._process = ServerProcess("the server")

    def _checked(self, base: dict[str, Any], name: str) -> dict[str, Any]:
        try:
            return laid_over(base, name).model_dump(mode="json")
        except ValidationError as error:
            raise ConfigError(f"--configurations: {name}: " + "; ".join(describe(error, ServingConfig))) from error

    def url(self, pool: str) -> str:
        return f"{self._root}/{pool}"

    def start(self) -> None:
        """Returns when all pools are paired. Raises BenchError with the server's last words."""
        waiting = list(self._configs)

        def ready() -> bool:
            while waiting and paired(cluster(self.url(waiting[-1])), drafters=1):
                waiting.pop()
            return not waiting

        self._process.start(yaml.safe_dump(self._configs), ["-m", "benchmarks.ablation.applications"], ready, START_TIMEOUT_S)

    def close(self) -> None:
        self._process.close()

    def sections(self) -> dict[str, Any]:
        """What each configuration says, for the report."""
        return {name: dict(CONFIGURATIONS[name].sections) for name in self._configs}
