"""Frozen devices as chaos runs make them, on a real decoder in another process: the device stands still, and the process goes on."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.chaos.freezes import Freezes, possible
from tests.chaos.processes import gone

pytestmark = pytest.mark.skipif(not possible(), reason="needs root on Linux")

PROGRAM = """
import threading, time
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.loader import load
from drafthouse.engine.model_runner import check_device

runner, steps = load(ModelConfig(path="demo:draft", dtype="float32", threads=1, kv_tokens=64)).runner, 0

def work():
    global steps
    while True:
        check_device(runner)
        steps += 1

threading.Thread(target=work, daemon=True).start()
while True:
    print(steps, flush=True)
    time.sleep(0.01)
"""
"""Says over and over how many steps its device has made."""


class Replica:
    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        while not self.steps():
            pass

    def steps(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def later_steps(self, looks: int = 50) -> list[int]:
        return [self.steps() for _ in range(looks)]


@pytest.fixture
def replica() -> Iterator[Replica]:
    replica = Replica()
    try:
        yield replica
    finally:
        replica.process.kill()
        replica.process.wait()


def freeze(freezes: Freezes, replica: Replica) -> None:
    while not freezes.freeze(replica.pid):
        assert replica.process.poll() is None


def test_the_device_stands_still_while_its_process_goes_on(replica: Replica) -> None:
    freezes = Freezes()
    freeze(freezes, replica)
    replica.later_steps(200)  # said before, and read only now
    assert len({*replica.later_steps()}) == 1
    freezes.thaw_all()
    before = replica.steps()
    while replica.steps() <= before + 10:
        pass


def test_one_that_was_killed_meanwhile_is_gone_after_the_thaw(replica: Replica) -> None:
    freezes = Freezes()
    freeze(freezes, replica)
    replica.process.kill()
    while not gone(psutil.Process(replica.pid)):
        pass
    freezes.thaw_all()
    replica.process.wait(20)
