"""Fewer devices than asked for: an error with the field and both numbers, not a wait."""

import pytest

from deployments.cli.local_cluster import check_gpus, needed_cpus
from drafthouse.config.serving import ModelConfig, ServingConfig
from drafthouse.engine.parallel.local import ChildProcesses
from drafthouse.errors import ConfigError

SPLIT = ServingConfig.model_validate(
    {
        "target": {"path": "demo:target", "device": "cuda", "parallel": 2},
        "verifier": {"replicas": 3, "num_cpus": 2, "num_gpus": 1},
        "drafter": {"replicas": 1, "num_cpus": 1, "num_gpus": 1},
        "gateway": {"num_cpus": 0.5},
        "controller": {"num_cpus": 0.5},
    }
)


def test_every_rank_counts() -> None:
    assert needed_cpus(SPLIT) == 3 * 2 * 2 + 1 + 0.5 + 0.5
    check_gpus(SPLIT, {"GPU": 7.0})
    with pytest.raises(ConfigError, match=r"need 7 GPUs together \(replicas x parallel x num_gpus\), this machine has 6"):
        check_gpus(SPLIT, {"GPU": 6.0})
    with pytest.raises(ConfigError, match="this machine has 0"):
        check_gpus(SPLIT, {})


def test_child_processes_need_a_gpu_each() -> None:
    with pytest.raises(ConfigError, match=r"demo:target: parallel: 64 GPUs are asked for, and this machine has \d"):
        ChildProcesses().start(ModelConfig(path="demo:target", device="cuda", parallel=64), [])
