"""A real HAProxy with the configuration that Ray writes, in front of servers of a test."""

import asyncio
import os
import pathlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions

from deployments.cli.ray_environment import HTTP2_STREAMS, free_ports, local_environment


def write_config(folder: pathlib.Path, http: int | None, grpc: int | None) -> tuple[pathlib.Path, int, int]:
    """(file, its port for HTTP, for gRPC), as Ray writes it in the environment of a local cluster.

    `http` and `grpc`: ports of servers; None: there is no application yet."""
    http_port, grpc_port, metrics, stats = free_ports(4)
    file = folder / "haproxy.cfg"
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=["deployments.api.grpc.servicer.add_inference_to_server"]),
        metrics_port=metrics, stats_port=stats, nbthread=1, socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder), server_state_file=str(folder / "server-state"), metrics_enabled=False,
        h2_fe_max_concurrent_streams=HTTP2_STREAMS, h2_be_max_concurrent_streams=HTTP2_STREAMS, has_received_routes=True, is_head=True,
    )  # fmt: skip
    backends = {}
    for name, port, protocol in (("http", http, RequestProtocol.HTTP), ("grpc", grpc, RequestProtocol.GRPC)):
        if port is not None:
            servers = [ServerConfig(name="one", host="127.0.0.1", port=port)]
            backends[name] = BackendConfig(name=name, path_prefix="/", app_name="drafthouse", servers=servers, protocol=protocol)
    HAProxyApi(config, backends, str(file))._generate_config_file_internal()
    return file, http_port, grpc_port


@asynccontextmanager
async def proxied(folder: pathlib.Path, http: int | None, grpc: int | None = None) -> AsyncIterator[tuple[int, int]]:
    """Ports of the proxy for HTTP and for gRPC."""
    file, http_port, grpc_port = write_config(folder, http, grpc)
    with patch.dict(os.environ, local_environment(folder, 4 << 20)):
        command = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
        process = await asyncio.create_subprocess_exec(command, "-db", "-f", str(file), stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            while not await _listens(http_port):
                assert process.returncode is None, (await process.stderr.read()).decode()
                await asyncio.sleep(0.02)
        yield http_port, grpc_port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def said(port: int, data: bytes) -> bytes:
    """All that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 20.0)
    finally:
        writer.close()
