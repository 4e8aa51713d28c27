"""Stages without a draft model on real clusters: a CPU-only drafter pool, and stages in the verifier that serve alone."""

import os
import pathlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from drafthouse.checkpoints.model_path import DEMO_MODELS
from tests.cluster.serving import Serving

pytestmark = pytest.mark.cluster_long

PROMPT = "import os\nimport sys\n\ndef first(a):\n    return a\n\ndef second(a):\n    return a\n\ndef third(a):\n"
BODY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 96, "temperature": 0}
TRIGRAM = {"kind": "trigram", "placement": "verifier", "table": str(DEMO_MODELS / "draft" / "trigram.npz")}


@contextmanager
def served(folder: pathlib.Path, drafter: dict[str, Any]) -> Iterator[Serving]:
    server = Serving(folder, draft=None, drafter=drafter)
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


def plain_text(server: Serving) -> str:
    answer = server.complete(**BODY, speculation={"mode": "off"})
    assert answer["usage"]["speculation"]["verified"] == 0
    text: str = answer["choices"][0]["text"]
    return text


def accepted(server: Serving, mode: str) -> int:
    """Drafts accepted of the request, which has the plain text."""
    answer = server.complete(**BODY, speculation={"mode": mode, "nodes": 8, "depth": 8})
    assert answer["choices"][0]["text"] == plain_text(server)
    count: int = answer["usage"]["speculation"]["accepted"]
    return count


@pytest.mark.timeout(600)
def test_a_pool_without_a_model_drafts_and_the_verifiers_stage_serves_alone_when_it_dies(tmp_path: pathlib.Path) -> None:
    """Mode `fixed` takes the drafter's nodes alone; stages in the verifier serve mode `auto`."""
    with served(tmp_path, {"stages": [{"kind": "lookup"}, {"kind": "suffix"}, TRIGRAM]}) as server:
        server.until(lambda: accepted(server, "fixed") > 10, "drafts of lookup and suffix are accepted", 30)
        server.until(lambda: server.totals("drafter").get("stage_nodes", 0.0) > 0, "the drafter reports nodes of its stages")
        [pool] = server.cluster()["pools"]["drafter"]
        assert pool["gauges"]["kv_slots"] == pool["gauges"]["pass_ms"] == 0, "no model, so no KV and no passes"
        assert pool["totals"]["passes"] == 0
        drafters = lambda: server.cluster()["pools"]["verifier"][0]["gauges"]["drafters"]  # noqa: E731

        def served_alone() -> bool:
            """A request whose verifier had no drafter before it and has none after it; Serve starts another one meanwhile."""
            for pid in server.pids("drafter"):
                with suppress(ProcessLookupError):  # dead already, and not yet missed
                    os.kill(pid, signal.SIGKILL)
            server.until(lambda: drafters() == 0, "the verifier has lost its drafter")
            sessions = server.totals("verifier").get("sessions_opened", 0)
            count = accepted(server, "auto")
            return count > 0 and drafters() == 0 and server.totals("verifier").get("sessions_opened", 0) == sessions

        server.until(served_alone, "drafts of the verifier's own stage are accepted", 120)
        server.until(lambda: drafters() == 1, "a drafter in its place", 120)
        server.until(lambda: accepted(server, "fixed") > 10, "its drafts are accepted", 30)


@pytest.mark.timeout(400)
def test_stages_in_the_verifier_need_no_drafter_pool(tmp_path: pathlib.Path) -> None:
    stages = [{"kind": "suffix", "placement": "verifier"}, {"kind": "lookup", "placement": "verifier"}, TRIGRAM]
    with served(tmp_path, {"replicas": 0, "stages": stages}) as server:
        server.until(lambda: accepted(server, "auto") > 10, "drafts are accepted", 30)
        assert not server.cluster()["pools"].get("drafter")
        server.until(lambda: server.totals("verifier").get("stage_nodes", 0.0) > 0, "the verifier reports nodes of its stages")
