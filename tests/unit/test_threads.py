"""How a model's threads wait: what is asked of OpenMP, and what is said of it."""

import pytest
import torch

from deployments.placement import actor_options
from drafthouse.engine.threads import Threads, awake, measure


def environment(num_cpus: float, threads: int) -> dict[str, str]:
    variables: dict[str, str] = actor_options(num_cpus, 0, threads)["runtime_env"]["env_vars"]
    return variables


@pytest.mark.parametrize(("num_cpus", "threads", "stays"), [(2, 2, True), (4, 2, True), (1.5, 2, False), (0.5, 1, False)])
def test_threads_stay_awake_only_on_cpus_of_their_own(num_cpus: float, threads: int, stays: bool) -> None:
    assert awake(environment(num_cpus, threads)) == stays


def test_a_count_of_spins_goes_before_the_policy() -> None:
    """As GNU OpenMP has it: Ray's own environment may ask for PASSIVE."""
    assert awake({"OMP_WAIT_POLICY": "PASSIVE"} | environment(2, 2))
    assert not awake({"GOMP_SPINCOUNT": "0"})
    assert not awake({"OMP_WAIT_POLICY": "passive"})
    assert awake({}), "its own default"


def test_what_is_said() -> None:
    assert str(Threads(1, 1.0, True)) == "1 thread"
    assert str(Threads(4, 3.514, True)) == "4 threads do 3.51 times the work of one; idle ones stay awake for a while"
    assert str(Threads(2, 1.0, False)) == "2 threads do 1.00 times the work of one; idle ones sleep at once"


def test_torch_has_the_threads_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    try:
        found = measure(2)
        assert torch.get_num_threads() == 2
        assert (found.count, found.awake) == (2, False)
        assert found.speed_up > 0
    finally:
        torch.set_num_threads(before)
