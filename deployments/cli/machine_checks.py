"""What `drafthouse serve` needs of this machine: free ports, GPUs, the files that its configuration names.

Promises: all faults are told together, before Ray starts, a line for each, which names the config key, the file or the port.
torch is imported only where the configuration asks for GPUs, to see what is there.
"""

import os
import socket
from collections.abc import Mapping

from deployments.placement import needed_gpus
from deployments.preflight import check_folders, check_synthetic
from drafthouse.config.serving import PoolConfig, ServerConfig, ServingConfig
from drafthouse.errors import ConfigError, Faults


def check_machine(config: ServingConfig, environment: Mapping[str, str]) -> None:
    """Raises ConfigError or ModelError."""
    from drafthouse.security.api_keys import load_api_keys
    from drafthouse.wire.transport import load_transport

    faults = Faults()
    with faults.gather():
        check_synthetic(config, environment)
    with faults.gather():
        check_ports(config)
    # Gateways and replicas read these themselves; here a fault shows before Ray starts.
    with faults.gather():
        load_api_keys(config.security.api_keys)
    with faults.gather():
        load_transport(config.security.data_plane)
    with faults.gather():
        check_devices(config)
    with faults.gather():
        check_folders(config)
    faults.end()


def check_devices(config: ServingConfig) -> None:
    """Raises ConfigError where the configuration asks for GPUs that torch does not see here."""
    sections = {"target": config.target, "draft": config.draft}
    asked = [f"{name}.device" for name, model in sections.items() if model is not None and model.device == "cuda"]
    if not asked and not needed_gpus(config):
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked and not count:
        raise ConfigError(f"{', '.join(asked)}: cuda, but torch sees no GPU here: {_why_none()}; this machine has {os.cpu_count()} CPUs")
    check_gpus(config, count)


def check_gpus(config: ServingConfig, present: float) -> None:
    """Raises ConfigError where there are fewer GPUs than all replicas need."""
    if (needed := needed_gpus(config)) > present:
        raise ConfigError(
            f"verifier.num_gpus, drafter.num_gpus: all replicas need {needed:g} GPUs together "
            f"(replicas x parallel x num_gpus), this machine has {present:g}"
        )


def _why_none() -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them"
    return f"no NVIDIA driver answers to torch {torch.__version__} (CUDA {torch.version.cuda}); see nvidia-smi"


def check_ports(config: ServingConfig) -> None:
    """All ports of a server on this machine are free and distinct. Raises ConfigError naming each key and port at fault."""
    faults, server = Faults(), config.server
    ports = {"server.http_port": server.http_port, "server.grpc_port": server.grpc_port, "server.dashboard_port": server.dashboard_port}
    for key, pool in (("verifier", config.verifier), ("drafter", config.drafter)):
        if pool.port:
            with faults.gather():
                _check_pool_port(key, pool, config.autoscaling.most(key, pool.replicas))
            ports[f"{key}.port"] = pool.port
    taken: dict[int, str] = {}
    for key, port in ports.items():
        with faults.gather():
            if port in taken:
                raise ConfigError(f"{key}: {taken[port]} has port {port} too")
            taken[port] = key
            _check_free(key, port, server)
    faults.end()


def _check_pool_port(key: str, pool: PoolConfig, replicas: int) -> None:
    if replicas > 1:
        raise ConfigError(f"{key}.port: {replicas} replicas on one machine cannot share port {pool.port}; 0 gives each a free one")


def _check_free(key: str, port: int, server: ServerConfig) -> None:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: without it, connections that a former server closed would count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, port))
        except OSError as error:
            raise ConfigError(
                f"{key}: port {port} on {server.host} cannot be used: {error.strerror}. "
                "`drafthouse stop` ends a server started here; or choose another port in the config"
            ) from error
