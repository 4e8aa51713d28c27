"""The process group of one replica's ranks: NCCL on GPUs, gloo on CPUs, met through a store on the loopback.

Promises: nothing of it listens on another interface than the loopback, unless NCCL itself does; ports are
chosen by the kernel. A process has one group at a time, since transformers shards over the default one.
"""

import os
import socket
from datetime import timedelta

import psutil
import torch
from torch import distributed

from drafthouse.engine.parallel.followers import LOOPBACK
from drafthouse.errors import ConfigError

TIMEOUT = timedelta(hours=2)
"""Of a collective. Ranks load at different speeds; one that is dead or stopped is noticed by its link, not by this."""


def open_store(size: int) -> distributed.TCPStore:
    """Rank 0's end of the store, on a free port."""
    if distributed.is_initialized():
        raise ConfigError("parallel: this process holds a tensor-parallel model already, and can hold only one")
    listening = socket.create_server((LOOPBACK, 0))
    port = listening.getsockname()[1]
    return distributed.TCPStore(
        LOOPBACK, port, size, is_master=True, timeout=TIMEOUT, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def reach_store(port: int, size: int) -> distributed.TCPStore:
    return distributed.TCPStore(LOOPBACK, port, size, is_master=False, timeout=TIMEOUT)


def join(store: distributed.TCPStore, rank: int, size: int, device: torch.device) -> None:
    """Blocks until all ranks have joined. Raises ConfigError where transformers would shard over another kind of device."""
    built_for = torch.accelerator.current_accelerator(check_available=False)
    if device.type == "cpu" and built_for is not None:
        raise ConfigError(f"device: cpu with parallel {size}, but this build of torch is for {built_for.type}, and its models shard there")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # read by transformers
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _loopback_interface() -> str:
    named = psutil.net_if_addrs().items()
    return next(name for name, addresses in named if any(a.address == LOOPBACK for a in addresses))
