"""`bench scaling`: its report and its plot, on a course of which it is known who came and went."""

import asyncio
import pathlib
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.harness.http_stream import BenchError
from benchmarks.harness.plots import plot_scaling
from benchmarks.load.response import Phase
from benchmarks.load.scaling import ScalingOptions, Sizes, scaled_both_ways, scaling_report, sizes_of
from benchmarks.load.stepped import SteppedClients, Work
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from simulator.policies import counts

PHASES = [Phase(2, 0.0, 4.0), Phase(14, 4.0, 8.0)]


def course(verifiers: str, drafters: str) -> list[Sizes]:
    """Replicas second by second, desired a second before they are there."""
    samples = []
    for i in range(len(verifiers)):
        now, soon = ({"verifier": int(verifiers[j]), "drafter": int(drafters[j])} for j in (i, min(i + 1, len(verifiers) - 1)))
        samples.append(Sizes(float(i), now, soon, {"verifier": f"v{i}", "drafter": f"d{i}"}, 100.0 + i, i))
    return samples


def test_changes_are_of_replicas_with_the_reason_of_the_verdict():
    report = scaling_report(course("11221111", "11111210"), PHASES)
    assert [(c["at_s"], c["pool"], c["from"], c["to"]) for c in report["changes"]] == [
        (2.0, "verifier", 1, 2), (4.0, "verifier", 2, 1), (5.0, "drafter", 1, 2), (6.0, "drafter", 2, 1), (7.0, "drafter", 1, 0),
    ]  # fmt: skip
    assert report["changes"][0]["reason"] == "v1"
    assert scaled_both_ways(report)


def test_a_pool_that_only_grew_did_not_scale_both_ways():
    report = scaling_report(course("1122", "1210"), PHASES)
    assert report["scaled"] == {"verifier": {"up": True, "down": False}, "drafter": {"up": True, "down": True}}
    assert not scaled_both_ways(report)


def test_a_crash_and_its_repair_were_not_asked_for():
    """Two replicas are wanted all the time."""
    crash = [replace(sample, desired={"verifier": 2, "drafter": 1}) for sample in course("22122", "11111")]
    report = scaling_report(crash, PHASES)
    assert [(c["from"], c["to"], c["asked"], c["reason"]) for c in report["changes"]] == [
        (2, 1, False, "not asked for"), (1, 2, False, "not asked for"),
    ]  # fmt: skip
    assert report["scaled"]["verifier"] == {"up": False, "down": False}


def test_plot(tmp_path: pathlib.Path):
    report = {"paced": True, **scaling_report(course("11221111", "11111210"), PHASES)}
    assert plot_scaling(report, tmp_path).stat().st_size > 10_000


def test_sections_are_a_configuration_that_starts():
    options = ScalingOptions((2, 6), 1.0, 2, 3, 3, "code", (16, 32), 4, 0)
    config = ServingConfig.model_validate(options.sections())
    assert config.autoscaling.drafter.min == 0
    assert (config.autoscaling.most("verifier", 1), config.autoscaling.most("drafter", 1)) == (2, 3)


def test_sizes_of_the_cluster_s_state():
    size = {"actual": 1, "desired": 2, "reason": "why", "least": 1, "most": 2}
    cluster = {"sizes": {"verifier": size, "drafter": size}, "goodput": {"committed_per_s": 5.0, "queue": 3}}
    found = sizes_of(1.5, cluster)
    assert (found.at_s, found.actual["drafter"], found.desired["verifier"], found.queue) == (1.5, 1, 2, 3)


def test_zero_in_flight_is_a_phase_where_it_is_allowed():
    assert counts("--in-flight", "2,0,2", least=0) == (2, 0, 2)
    with pytest.raises(ConfigError, match="--in-flight"):
        counts("--in-flight", "2,0,2")


class Answers:
    """A server that takes 10 ms for each request, and fails one."""

    def __init__(self, failing: int = -1):
        self.running = self.most = self.count = 0
        self.failing = failing

    async def one(self, arrival: Any, temperature: float, speculation: dict[str, Any]) -> None:
        self.count += 1
        if self.count == self.failing:
            raise BenchError("no")
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1

    async def cluster(self) -> dict[str, Any]:
        return {}


def stepped(answers: Answers) -> SteppedClients:
    return SteppedClients(answers, Work(4, (16, 32), 0.0, 0), lambda at_s, cluster: None)  # type: ignore[arg-type]


def test_so_many_requests_are_in_flight_as_the_phase_says():
    async def run() -> None:
        answers = Answers()
        clients = stepped(answers)
        for in_flight in (2, 5, 0, 1):
            answers.most = 0
            phase = await clients.phase(in_flight, 0.1)
            assert phase.end_s - phase.start_s == pytest.approx(0.1, abs=0.09)
            assert answers.most == in_flight
            if in_flight == 0:
                assert answers.running == 0
        await clients.leave()
        assert clients.finished == answers.count

    asyncio.run(run())


def test_a_failed_request_ends_the_run():
    async def run() -> None:
        clients = stepped(Answers(failing=5))
        with pytest.raises(BenchError):
            await clients.phase(2, 5.0)
        await clients.close()

    asyncio.run(run())
