"""A real Ray cluster with the Serve application on paced devices, for as long as a benchmark wants it.

Promises: started by `drafthouse serve --config` in a process of its own, on free ports; gone after
`close`. Totals are read from `/v1/cluster`, only after the replicas have reported them.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from benchmarks.harness.http_stream import BenchError
from benchmarks.harness.server_process import ServerProcess
from deployments.cli.ray_environment import free_port
from drafthouse.config.serving import ServingConfig

SETTLE_TIMEOUT_S = 30.0
SETTLED_HEARTBEATS = 2.2
"""By then every replica has reported twice; a drafter learns of a request's end a message later than the client, so once would not do."""

Totals = dict[str, float]


@dataclass(frozen=True)
class PacedPair:
    """Tokens from `target` and `draft`, times from the curves, all stretched by `time_scale`; a step has at most `step_tokens`,
    prompt chunks and trees alike, since for a large one the CPU needs longer than the curve allows. Without a prefix cache: the same
    prompts come again under each policy, and those of real clients would not. `chats`: prompts are what users say."""

    target: str
    draft: str
    target_curve: str
    draft_curve: str
    time_scale: float
    threads: int
    step_tokens: int
    dtype: str = "float32"
    chats: bool = False

    def serving_config(self) -> dict[str, Any]:
        """What `drafthouse serve --config` reads."""
        common = {"dtype": self.dtype, "device": "paced", "threads": self.threads, "prefix_cache": "off"}
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
        self._process = ServerProcess("drafthouse serve")

    def start(self) -> None:
        """Returns when the pools have reported, paired where there are drafters. Raises BenchError with the server's last words."""
        command = ["-c", "from deployments.cli.main import main; main()", "serve", "--config"]
        self._process.start(yaml.safe_dump(self._data), command, lambda: paired(cluster(self.url), self.config.drafter.replicas))

    def close(self) -> None:
        self._process.close()

    def totals(self, finished: float) -> dict[str, Totals]:
        return settled_totals(self.url, finished, SETTLED_HEARTBEATS * self.config.controller.heartbeat_s)


def cluster(url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`/v1/cluster` of the application at `url`. Raises httpx.HTTPError."""
    answer = httpx.get(f"{url}/v1/cluster", headers=headers, timeout=5.0, trust_env=False)
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result


def paired(state: Mapping[str, Any], drafters: int) -> bool:
    """Whether the pools of a `cluster` state have reported and, where there are drafters, found each other."""
    pools = state["pools"]
    if not drafters:
        return bool(pools["verifier"])
    return bool(pools["drafter"]) and any(v["gauges"].get("drafters") for v in pools["verifier"])


def settled_totals(url: str, finished: float, settle_s: float) -> dict[str, Totals]:
    """Sums by pool, `settle_s` after the verifiers count `finished` requests in all. Raises BenchError where they never do."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        if sums(cluster(url), "verifier").get("finished", 0.0) >= finished:
            time.sleep(settle_s)
            state = cluster(url)
            return {role: sums(state, role) for role in ("verifier", "drafter")}
        time.sleep(0.1)
    raise BenchError(f"{url}/v1/cluster does not count {finished:.0f} finished requests after {SETTLE_TIMEOUT_S:.0f} s")


def sums(state: Mapping[str, Any], role: str) -> Totals:
    """Totals of a pool's replicas, added up."""
    result: Totals = {}
    for replica in state["pools"].get(role, []):
        for name, value in replica["totals"].items():
            result[name] = result.get(name, 0.0) + value
    return result


def difference(after: Totals, before: Totals) -> Totals:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
