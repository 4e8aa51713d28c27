"""Replicas that die while they serve: what the client sees is a pause at most."""

import json
import os
import signal
import threading
import time

import httpx
import pytest

from drafthouse.config.serving import ControllerConfig
from tests.cluster.serving import Serving

pytestmark = pytest.mark.cluster_long
HEARTBEAT_S = ControllerConfig().heartbeat_s
PROMPT = "class Queue:\n    def __init__(self):\n"


def stream_text(serving: Serving, on_text: threading.Event, **body: object) -> str:
    text = ""
    payload = {"model": "demo", "stream": True, **body}
    with httpx.stream("POST", f"{serving.url}/v1/completions", json=payload, timeout=120) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            text += event["choices"][0]["text"] if event["choices"] else ""
            if len(text) > 60:
                on_text.set()
    return text


def test_verifier_killed_mid_stream_gives_the_same_text(pools: Serving) -> None:
    body = {"prompt": PROMPT, "max_tokens": 700, "temperature": 0.8, "seed": 11}
    want = pools.complete(**body)["choices"][0]["text"]
    reached = threading.Event()
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(stream_text(pools, reached, **body)))
    thread.start()
    assert reached.wait(60)
    time.sleep(2.4 * HEARTBEAT_S)  # until every verifier has reported since the stream began; the text takes seconds more
    busy = [r["pid"] for r in pools.cluster()["pools"]["verifier"] if r["gauges"]["running"] > 0]
    assert busy, "the stream was meant to be running"
    os.kill(busy[0], signal.SIGKILL)
    thread.join(150)
    assert result == [want]
    assert pools.totals("gateway")["failovers"] >= 1
    pools.until(lambda: busy[0] not in pools.pids("verifier"), "a verifier in its place", 120)


def test_controller_killed_stops_nothing(pools: Serving) -> None:
    deployments = httpx.get(f"{pools.dashboard_url}/api/serve/applications/", timeout=30)
    actors = deployments.json()["applications"]["drafthouse"]["deployments"]["ControllerReplica"]["replicas"]
    body = {"prompt": PROMPT, "max_tokens": 400, "temperature": 0}
    want = pools.complete(**body)["choices"][0]["text"]
    os.kill(actors[0]["pid"], signal.SIGKILL)
    assert pools.complete(**body)["choices"][0]["text"] == want

    def all_back() -> bool:
        pools_now = pools.cluster().get("pools", {})  # an error while there is no controller
        return len(pools_now.get("verifier", [])) + len(pools_now.get("drafter", [])) == 3

    pools.until(all_back, "state comes back from heartbeats", 120)
