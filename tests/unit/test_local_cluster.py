"""Ray on this machine: a first try that failed half-way does not stand in the second one's way."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray

from deployments.cli.local_cluster import DeployError, LocalCluster
from drafthouse.config.serving import ServingConfig

LINGERING = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """A process that each failed try leaves behind; the second try fails if the first one's still runs."""
    left: list[subprocess.Popen] = []

    def init(**options: object) -> SimpleNamespace:
        if not left:
            left.append(subprocess.Popen(LINGERING))
            raise Exception("too slow")
        if left[0].poll() is None:
            raise Exception("the port is occupied")
        return SimpleNamespace()

    monkeypatch.setattr(ray, "init", init)
    return left


def test_what_a_failed_try_left_behind_is_gone_before_the_next(tried: list[subprocess.Popen]) -> None:
    with subprocess.Popen(LINGERING) as other:
        LocalCluster(ServingConfig())._init_ray()
        assert len(tried) == 1
        assert other.poll() is None, "a process that was there before is not Ray's"
        other.kill()


def test_a_second_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise Exception("no room")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(DeployError, match="Ray did not start: no room"):
        LocalCluster(ServingConfig())._init_ray()
