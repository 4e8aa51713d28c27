"""Ranks as child processes, for commands that run a model without Ray."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.parallel.invitation import Invitation
from drafthouse.errors import ConfigError


class ChildProcesses:
    """They end with this process, since their links to it break."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, config: ModelConfig, invitations: Sequence[Invitation]) -> None:
        present = torch.cuda.device_count()
        if config.device == "cuda" and present < config.parallel:
            raise ConfigError(f"{config.path}: parallel: {config.parallel} GPUs are asked for, and this machine has {present}")
        for invitation in invitations:
            command = [sys.executable, "-m", "drafthouse.engine.parallel.follower"]
            self.processes[invitation.rank] = process = subprocess.Popen(command, stdin=subprocess.PIPE)
            assert process.stdin is not None
            pickle.dump(replace(invitation, device=invitation.rank), process.stdin)
            process.stdin.close()

    def failure(self) -> str:
        ended = ((rank, process.poll()) for rank, process in self.processes.items())
        return "; ".join(f"rank {rank} ended with exit status {status}" for rank, status in ended if status is not None)
