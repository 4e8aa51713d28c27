"""Replicas that are stopped, killed, scaled down and upgraded while streams run: every text is the one it would have been.

The models run in float64, so texts are compared with zero tolerance (docs/design.md 1). Prints the longest pause that a client saw.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.deployed import Deployed
from tests.cluster.streams import Streams

pytestmark = [pytest.mark.cluster_long, pytest.mark.timeout(1800)]
STREAMS, TOKENS = 6, 800
"""Texts that take long enough for Serve to scale a pool while they run; with their prompts they fit into the context of 1,024."""

NOTICED_S = 5.0
"""Until the totals show that a stopped process was noticed: five beats of its peers, a heartbeat to tell of it, and room for a machine with
too much to do. In polls, as all waits here are. Without the beats it would be keepalive's 30 s, or Serve's health check."""

BOTH: dict[str, dict[str, Any]] = {"VerifierReplica": {"num_replicas": 2}, "DrafterReplica": {"num_replicas": 2}}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    cluster = Deployed(
        tmp_path_factory.mktemp("deployed"),
        target={"dtype": "float64"},
        draft={"dtype": "float64"},
        verifier={"drain_s": 120},
        gateway={"patience_s": 120},
    )
    try:
        yield cluster.start(**BOTH)
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def prompts(held_out: list[str]) -> list[str]:
    return [text[-300:] for text in held_out[:STREAMS]]


@pytest.fixture(scope="module")
def undisturbed(deployed: Deployed, prompts: list[str]) -> list[list[int]]:
    both(deployed)
    return Streams(deployed.grpc_port, prompts, TOKENS).finish()


def both(deployed: Deployed) -> None:
    """Until two verifiers and two drafters are there, all connected."""

    def there() -> bool:
        verifiers = deployed.pool("verifier")
        return len(verifiers) == len(deployed.pool("drafter")) == 2 and all(v["gauges"]["drafters"] == 2 for v in verifiers)

    deployed.until(there, "two verifiers with two drafters each")


@contextmanager
def running(deployed: Deployed, prompts: list[str]) -> Iterator[Streams]:
    """Streams that have begun and are not over."""
    both(deployed)
    streams = Streams(deployed.grpc_port, prompts, TOKENS)
    deployed.until(lambda: streams.all_have(10), "tokens of every stream")
    assert streams.running == STREAMS
    yield streams


def busiest(deployed: Deployed, role: str) -> dict[str, Any]:
    deployed.until(lambda: any(replica["load"] for replica in deployed.pool(role)), f"a {role} at work")
    return max(deployed.pool(role), key=lambda replica: int(replica["load"]))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def not_served(deployed: Deployed) -> float:
    """Requests that ended in any other way than with all their tokens, so far."""
    totals = deployed.totals("gateway")
    assert totals["outcome.served"] > 0
    return sum(count for name, count in totals.items() if name.startswith("outcome.") and name != "outcome.served")


def report(what: str, streams: Streams) -> None:
    print(f"{what}: the longest pause of a client was {streams.longest_pause_s():.2f} s")


def test_a_stopped_verifier_is_left_and_what_it_held_is_freed_when_it_wakes(
    deployed: Deployed, prompts: list[str], undisturbed: list[list[int]]
) -> None:
    with running(deployed, prompts) as streams:
        verifier = busiest(deployed, "verifier")
        failovers = deployed.totals("gateway")["failovers"]
        with stopped(verifier["pid"]):
            deployed.until(lambda: deployed.totals("gateway")["failovers"] > failovers, "it was noticed by its silence", NOTICED_S)
            assert streams.finish() == undisturbed, "while it is stopped"
        report("verifier stopped", streams)

    def awake_and_empty() -> bool:
        mine = [replica for replica in deployed.pool("verifier") if replica["replica"] == verifier["replica"]]
        return bool(mine) and mine[0]["age_s"] < 1 and mine[0]["load"] == mine[0]["gauges"]["kv_slots_used"] == 0

    deployed.until(awake_and_empty, "it is back, and its stale attempts are gone")


def test_a_stopped_drafter_is_left_and_its_sessions_go_to_the_other(
    deployed: Deployed, prompts: list[str], undisturbed: list[list[int]]
) -> None:
    with running(deployed, prompts) as streams:
        drafter = busiest(deployed, "drafter")
        with stopped(drafter["pid"]):
            deployed.until(lambda: [v["gauges"]["drafters"] for v in deployed.pool("verifier")] == [1, 1], "both noticed", NOTICED_S)
            assert streams.finish() == undisturbed
        report("drafter stopped", streams)
    both(deployed)
    deployed.until(lambda: all(replica["load"] == 0 for replica in deployed.pool("drafter")), "no session is left on either")


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_controller_is_not_missed(deployed: Deployed, prompts: list[str], undisturbed: list[list[int]], how: str) -> None:
    """No session is lost either: a new controller's first directives, which do not know of all, close no stream."""
    with running(deployed, prompts) as streams:
        lost = deployed.totals("verifier").get("sessions.lost", 0.0)
        pid = deployed.controller_pid()
        if how == "killed":
            os.kill(pid, signal.SIGKILL)
            deployed.until(lambda: len(deployed.pool("verifier")) == 2, "the state comes back from heartbeats")
            assert streams.finish() == undisturbed
        else:
            with stopped(pid):
                assert streams.finish() == undisturbed
        report(f"controller {how}", streams)
    both(deployed)
    assert deployed.totals("verifier").get("sessions.lost", 0.0) == lost


def test_scaling_both_pools_down_moves_everything_and_fails_nothing(
    deployed: Deployed, prompts: list[str], undisturbed: list[list[int]]
) -> None:
    with running(deployed, prompts) as streams:
        before = deployed.totals("gateway")
        deployed.deploy(VerifierReplica={"num_replicas": 1}, DrafterReplica={"num_replicas": 1})
        deployed.until(lambda: len(deployed.pool("verifier")) == len(deployed.pool("drafter")) == 1, "one of each")
        assert streams.finish() == undisturbed
        report("scaled down", streams)
    deployed.until(lambda: deployed.totals("gateway")["moves.drain"] > before["moves.drain"], "requests moved")
    after = deployed.totals("gateway")
    assert after["failovers"] == before["failovers"]
    assert not_served(deployed) == 0
    deployed.deploy(**BOTH)
    both(deployed)


def test_the_only_verifier_is_upgraded_while_streams_run(deployed: Deployed, prompts: list[str], undisturbed: list[list[int]]) -> None:
    """It says that it drains, finishes what it has, and takes nothing new; what comes meanwhile waits for its successor."""
    one: dict[str, dict[str, Any]] = {"VerifierReplica": {"num_replicas": 1}, "DrafterReplica": {"num_replicas": 2}}
    deployed.deploy(**one)
    deployed.until(lambda: len(deployed.pool("verifier")) == 1, "one verifier")
    streams = Streams(deployed.grpc_port, prompts, TOKENS)
    deployed.until(lambda: streams.all_have(10), "tokens of every stream")
    [old] = deployed.pool("verifier")
    one["VerifierReplica"]["ray_actor_options"] = {"num_cpus": 0.4}
    deployed.deploy(**one)
    deployed.until(lambda: any(replica["draining"] for replica in deployed.pool("verifier")), "the status shows it")
    late = Streams(deployed.grpc_port, prompts[:2], TOKENS)
    assert streams.finish() == undisturbed
    report("only verifier upgraded", streams)
    assert late.finish() == undisturbed[:2]
    deployed.until(lambda: [replica["pid"] for replica in deployed.pool("verifier")] not in ([old["pid"]], []), "its successor")
    assert not_served(deployed) == 0
