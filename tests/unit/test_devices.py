"""Fewer devices than asked for: an error with the field and both numbers, not a wait."""

import sys

import pytest
import torch

from deployments.cli.machine_checks import check_devices, check_gpus
from deployments.placement import needed_cpus
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
    check_gpus(SPLIT, 7.0)
    with pytest.raises(ConfigError, match=r"need 7 GPUs together \(replicas x parallel x num_gpus\), this machine has 6"):
        check_gpus(SPLIT, 6.0)
    with pytest.raises(ConfigError, match="this machine has 0"):
        check_gpus(SPLIT, 0)


def test_child_processes_need_a_gpu_each() -> None:
    with pytest.raises(ConfigError, match=r"demo:target: parallel: 64 GPUs are asked for, and this machine has \d"):
        ChildProcesses().start(ModelConfig(path="demo:target", device="cuda", parallel=64), [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"^target\.device: cuda, but torch sees no GPU here: .*; this machine has \d+ CPUs$"):
        check_devices(SPLIT)
    only_reserved = ServingConfig.model_validate({"verifier": {"num_gpus": 0.5}})
    with pytest.raises(ConfigError, match=r"all replicas need 0\.5 GPUs together .*, this machine has 0"):
        check_devices(only_reserved)


def test_without_gpus_in_the_configuration_none_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch would cost a second."""
    monkeypatch.setitem(sys.modules, "torch", None)
    check_devices(ServingConfig())
    with pytest.raises(ImportError):
        check_devices(SPLIT)
