"""Several applications on one Ray cluster as their client sees them: one for each configuration with pools of its own.

Promises: started by `benchmarks.ablation.applications` in a process of its own, on the ports of the first; gone after `close`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from benchmarks.ablation.configurations import Sections, laid_over
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


def beside_others(base: Mapping[str, Any]) -> dict[str, Any]:
    """A serving config's keys, for an application that shares its machine with others without requests."""
    shared = dict(base)
    for section, keys in {**GENEROUS_CPUS, "controller": {"num_cpus": 0, "heartbeat_s": HEARTBEAT_S}}.items():
        shared[section] = {**shared.get(section, {}), **keys}
    return shared


def ablation_configs(pair: PacedPair, pools: Sequence[str]) -> dict[str, ServingConfig]:
    """By configuration. Raises ConfigError where this version's config does not know what one asks for."""
    base = beside_others(pair.serving_config())
    return {name: _checked(base, name) for name in pools}


def _checked(base: Mapping[str, Any], name: str) -> ServingConfig:
    try:
        return laid_over(base, name)
    except ValidationError as error:
        raise ConfigError(f"--configurations: {name}: " + "; ".join(describe(error, ServingConfig))) from error


class ApplicationsServer:
    def __init__(self, configs: Mapping[str, ServingConfig]):
        """`configs` by application."""
        self._configs = dict(configs)
        self._root = f"http://127.0.0.1:{next(iter(configs.values())).server.http_port}"
        self._process = ServerProcess("the server")

    def url(self, name: str) -> str:
        return f"{self._root}/{name}"

    def start(self) -> None:
        """Returns when all pools have reported, paired where there are drafters. Raises BenchError with the server's last words."""
        waiting = list(self._configs)

        def ready() -> bool:
            while waiting and paired(cluster(self.url(waiting[-1])), self._configs[waiting[-1]].drafter.replicas):
                waiting.pop()
            return not waiting

        written = yaml.safe_dump({name: config.model_dump(mode="json") for name, config in self._configs.items()})
        self._process.start(written, ["-m", "benchmarks.ablation.applications"], ready, START_TIMEOUT_S)

    def close(self) -> None:
        self._process.close()
