"""Verifiers of two ranks on a real cluster: a rank that dies takes its replica along, and the stream goes on elsewhere."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.cluster.serving import Serving
from tests.cluster.test_failures import stream_text

pytestmark = pytest.mark.cluster_long

PATIENT_S = 280.0
"""Two ranks hand over to each other tens of times a step: on a machine with much else to do, that is slow."""

BODY = {"prompt": "class Queue:\n    def __init__(self):\n", "max_tokens": 400, "temperature": 0.8, "seed": 11}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Float64, where rounding chooses no token; the draft on one device."""
    target = {"path": "demo:target", "dtype": "float64", "parallel": 2, "kv_tokens": 4096}
    server = Serving(tmp_path_factory.mktemp("parallel"), target=target, verifier={"replicas": 2}, controller={"heartbeat_s": 0.2})
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


def verifiers(serving: Serving) -> list[dict[str, Any]]:
    pool: list[dict[str, Any]] = serving.cluster().get("pools", {}).get("verifier", [])
    return pool


def busy(serving: Serving) -> list[dict[str, Any]]:
    return [replica for replica in verifiers(serving) if replica["gauges"]["running"] > 0]


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_rank_is_survived_by_a_running_stream(serving: Serving) -> None:
    want = serving.complete(timeout=PATIENT_S, **BODY)["choices"][0]["text"]
    before = verifiers(serving)
    assert [len(replica["ranks"]) for replica in before] == [1, 1]
    serving.until(lambda: not busy(serving), "the reports say that nothing runs any more")
    reached, result = threading.Event(), []
    thread = threading.Thread(target=lambda: result.append(stream_text(serving, reached, **BODY)))
    thread.start()
    assert reached.wait(PATIENT_S)
    serving.until(lambda: bool(busy(serving)), "a verifier says that it runs the stream")
    victim = busy(serving)[0]
    os.kill(victim["ranks"][0], signal.SIGKILL)
    thread.join(PATIENT_S)
    assert result == [want]
    assert serving.totals("gateway")["failovers"] >= 1
    assert ended(victim["pid"]), "rank 0 cannot go on alone"
    gone = {victim["pid"], *victim["ranks"]}

    def whole_again() -> bool:
        now = verifiers(serving)
        pids = [pid for replica in now for pid in (replica["pid"], *replica["ranks"])]
        return len(now) == 2 and len(set(pids) - gone) == 4

    serving.until(whole_again, "a replica of two new ranks in its place", PATIENT_S)
    assert serving.complete(timeout=PATIENT_S, **BODY)["choices"][0]["text"] == want


def test_the_other_ranks_end_with_rank_0(serving: Serving) -> None:
    victim = verifiers(serving)[0]
    os.kill(victim["pid"], signal.SIGKILL)
    serving.until(lambda: all(ended(pid) for pid in victim["ranks"]), "its other rank has ended", 30)
