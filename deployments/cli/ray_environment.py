"""The environment that Ray reads when it is imported, for a cluster started on this machine by `drafthouse serve`.

Promises: a variable that the user has set is left as it is. On a cluster that others run, these
belong into the head's and the workers' environment instead.
"""

import contextlib
import os
import pathlib
import random
import socket
import sysconfig

from deployments.cli import haproxy
from drafthouse.errors import ConfigError

FREE_PORTS = range(20_000, 32_000)
"""Above Ray's worker ports and below the range from which systems take ports of outgoing connections:
a port drawn here is still free when the server that gets it has come up."""


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(FREE_PORTS, 200 + count):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ConfigError(f"no {count} free ports found between {FREE_PORTS.start} and {FREE_PORTS.stop}")


def free_port() -> int:
    return free_ports(1)[0]


GATEWAY_PORTS = 100
"""Ports for the gRPC servers of one cluster's gateways."""


def free_gateway_ports() -> int:
    """The first of GATEWAY_PORTS ports, which nobody listens on now. gRPC servers share ports (SO_REUSEPORT), so where two clusters
    count up from the same one the kernel deals connections to the gateways of both."""
    for first in random.sample(range(40_000, 60_000, GATEWAY_PORTS), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", first))
            return first
    raise ConfigError("no free ports found between 40000 and 60000 for the gateways' gRPC servers")


HTTP2_STREAMS = 2048
"""On one connection, of a client and of the proxy to a gateway. HAProxy takes 100 if it is not told; the others wait unseen."""


def local_environment(scratch: pathlib.Path, max_message_bytes: int) -> dict[str, str]:
    """Variables for a local cluster whose HAProxy keeps its files in `scratch`. `max_message_bytes` of gRPC messages from clients.

    Ray listens on every interface and runs the code it is sent, so it asks for a token. Streams are
    fastest through HAProxy with Serve in throughput mode, where user code shares the replica's event
    loop, and where Serve would hold back 1,000 log records. The draining periods are for load balancers
    in front, of which there is none here. Ports and files are drawn afresh, so that several clusters fit
    on one machine.
    """
    gateway_port = free_gateway_ports()
    fallback_http, fallback_grpc, metrics, stats = free_ports(4)
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ROTATION_MAX_BYTES": str(8 << 20),
        "RAY_ROTATION_BACKUP_COUNT": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "FORWARDED_ALLOW_IPS": "none",  # uvicorn would take a client's x-forwarded-for for its address: the proxy is on this machine
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        haproxy.BINARY: str(pathlib.Path(sysconfig.get_path("scripts"), "drafthouse-haproxy")),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": str(HTTP2_STREAMS),
        "RAY_SERVE_HAPROXY_H2_BE_MAX_CONCURRENT_STREAMS": str(HTTP2_STREAMS),
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(max_message_bytes),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",  # at each change of replicas the old proxy goes on with its streams this long
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(gateway_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(gateway_port + GATEWAY_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    }


def prepare(scratch: pathlib.Path, max_message_bytes: int) -> None:
    """Puts what is missing into this process's environment. Must run before Ray is imported."""
    for name, value in local_environment(scratch, max_message_bytes).items():
        os.environ.setdefault(name, value)
