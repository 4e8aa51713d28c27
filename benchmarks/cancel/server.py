"""The server that `bench cancel` starts: the demo pair, on free ports, with a queue short enough to overflow.

Promises: started by `drafthouse serve --config` in a process of its own; gone after `close`.
"""

import pathlib
from collections.abc import Sequence

import psutil
import yaml

from benchmarks.harness.paced_server import cluster, paired
from benchmarks.harness.server_process import ServerProcess
from deployments.cli.ray_environment import free_port
from drafthouse.config.config_file import load_config
from drafthouse.config.security import DataPlaneConfig
from drafthouse.config.serving import ServingConfig
from drafthouse.security.api_keys import hash_of

QUEUE = {"max_sequences": 16, "max_queue": 16}
"""Fewer places than the bench has clients, so that some wait and some are refused."""


class OwnServer:
    def __init__(self, config: pathlib.Path | None, keys: Sequence[str] = (), data_plane: DataPlaneConfig | None = None):
        """With `keys` clients need one; the first is an operator's. Without `data_plane` that is open. Raises ConfigError."""
        data = load_config(config).model_dump(mode="json")
        if config is None:
            data["verifier"] |= QUEUE
        data["server"] |= {"http_port": free_port(), "grpc_port": free_port(), "dashboard_port": free_port()}
        if keys:
            hashes = [hash_of(key) for key in keys]
            data["security"]["api_keys"] = {"hashes": hashes, "operators": hashes[:1]}
            data["security"]["open_data_plane"] = data_plane is None
        if data_plane is not None:
            data["security"]["data_plane"] = data_plane.model_dump(mode="json")
        self._headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        self._config = ServingConfig.model_validate(data)
        self._data = data
        self.url = f"http://127.0.0.1:{self._config.server.http_port}"
        self.grpc = f"127.0.0.1:{self._config.server.grpc_port}"
        self._process = ServerProcess("drafthouse serve")

    def start(self) -> None:
        """Returns when the pools have found each other. Raises BenchError with the server's last words."""
        command = ["-c", "from deployments.cli.main import main; main()", "serve", "--config"]
        self._process.start(yaml.safe_dump(self._data), command, self._paired)

    def _paired(self) -> bool:
        return paired(cluster(self.url, self._headers), self._config.drafter.replicas)

    def processes(self) -> list[psutil.Process]:
        return self._process.processes()

    def close(self) -> None:
        self._process.close()
