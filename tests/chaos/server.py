"""The cluster that a chaos run tortures: two verifiers and two drafters in float32, one thread each, or a running one.

Promises: started by `drafthouse serve --config` in a process of its own, on free ports; gone after `close`. One verifier and one
drafter alone have room for all streams, so that a pause shows failover and not a queue.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.harness.paced_server import cluster
from benchmarks.harness.server_process import ServerProcess
from deployments.cli.ray_environment import free_port

REPLICAS = 2
START_TIMEOUT_S = 420.0


@dataclass(frozen=True)
class Address:
    """Where a cluster's APIs are: HTTP as a URL, gRPC as host:port."""

    url: str
    grpc: str


class ChaosServer:
    def __init__(self, target: str, draft: str, streams: int, tokens: int):
        """`tokens`: of one stream at most, its prompt included."""
        kv_tokens = 2 * streams * tokens
        model = {"dtype": "float32", "threads": 1}
        ports = {name: free_port() for name in ("http_port", "grpc_port", "dashboard_port")}
        self.config: dict[str, Any] = {
            "target": {"path": target, **model, "kv_tokens": kv_tokens},
            "draft": {"path": draft, **model, "kv_tokens": 2 * kv_tokens},
            "verifier": {"replicas": REPLICAS, "max_sequences": streams},
            "drafter": {"replicas": REPLICAS, "max_sessions": streams},
            "server": ports,
        }
        self.address = Address(f"http://127.0.0.1:{ports['http_port']}", f"127.0.0.1:{ports['grpc_port']}")
        self._process = ServerProcess("drafthouse serve")

    def start(self) -> None:
        """Returns when all replicas have reported. Raises BenchError with the server's last words."""
        command = ["-c", "from deployments.cli.main import main; main()", "serve", "--config"]
        self._process.start(yaml.safe_dump(self.config), command, self._whole, START_TIMEOUT_S)

    def _whole(self) -> bool:
        pools = cluster(self.address.url)["pools"]
        return all(len(pools[role]) == REPLICAS for role in ("verifier", "drafter"))

    def close(self) -> None:
        self._process.close()
