"""Verifiers of two ranks on a real cluster: a rank that dies takes its replica along, and the stream goes on elsewhere."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from drafthouse.config import ControllerConfig
from tests.cluster.serving import Serving
from tests.cluster.test_failures import stream_text

pytestmark = pytest.mark.cluster_long

BODY = {"prompt": "class Queue:\n    def __init__(self):\n", "max_tokens": 600, "temperature": 0.8, "seed": 11}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Float64, where rounding chooses no token; the draft on one device."""
    target = {"path": "demo:target", "dtype": "float64", "parallel": 2, "kv_tokens": 4096}
    server = Serving(tmp_path_factory.mktemp("parallel"), target=target, verifier={"replicas": 2})
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


def verifiers(serving: Serving) -> list[dict[str, Any]]:
    pool: list[dict[str, Any]] = serving.cluster().get("pools", {}).get("verifier", [])
    return pool


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_rank_is_survived_by_a_running_stream(serving: Serving) -> None:
    want = serving.complete(**BODY)["choices"][0]["text"]
    before = verifiers(serving)
    assert [len(replica["ranks"]) for replica in before] == [1, 1]
    reached, result = threading.Event(), []
    thread = threading.Thread(target=lambda: result.append(stream_text(serving, reached, **BODY)))
    thread.start()
    assert reached.wait(60)
    time.sleep(2.4 * ControllerConfig().heartbeat_s)  # until every verifier has reported since the stream began; the text takes longer
    busy = [replica for replica in verifiers(serving) if replica["gauges"]["running"] > 0]
    assert busy, "the stream was meant to be running"
    os.kill(busy[0]["ranks"][0], signal.SIGKILL)
    thread.join(150)
    assert result == [want]
    assert serving.totals("gateway")["failovers"] >= 1
    assert ended(busy[0]["pid"]), "rank 0 cannot go on alone"
    gone = {busy[0]["pid"], *busy[0]["ranks"]}

    def whole_again() -> bool:
        now = verifiers(serving)
        pids = [pid for replica in now for pid in (replica["pid"], *replica["ranks"])]
        return len(now) == 2 and len(set(pids) - gone) == 4

    serving.until(whole_again, "a replica of two new ranks in its place", 150)
    assert serving.complete(**BODY)["choices"][0]["text"] == want


def test_the_other_ranks_end_with_rank_0(serving: Serving) -> None:
    victim = verifiers(serving)[0]
    os.kill(victim["pid"], signal.SIGKILL)
    serving.until(lambda: all(ended(pid) for pid in victim["ranks"]), "its other rank has ended", 30)
