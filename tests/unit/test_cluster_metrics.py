"""The controller's numbers for metrics, from a registry that has heard reports."""

import pytest

from controller.registry import Registry
from controller.replica import cluster_numbers
from drafthouse.config.serving import ControllerConfig
from drafthouse.telemetry.metrics import METRICS
from tests.unit.reports import drafter_report, drafter_totals, verifier_report, verifier_totals

DESIRED = {"gateway": 1, "verifier": 3, "drafter": 1}

STEPS = {
    now: {"step_seconds": 0.6 * now, "wait_seconds": 0.2 * now, "run_seconds": 0.5 * now, "predicted_seconds": 0.4 * now}
    for now in (0.0, 1.0)
}


@pytest.fixture
def registry() -> Registry:
    registry = Registry(ControllerConfig())
    for now, committed in ((0.0, 0.0), (1.0, 120.0)):
        totals = verifier_totals(committed=committed, predicted_tokens=committed / 1.5, steps=committed / 2, **STEPS[now])
        registry.observe(verifier_report("v0", totals, price=0.1), now)
        registry.observe(verifier_report("v1", draining=True, price=0.1), now)
        registry.observe(drafter_report("d0", drafter_totals(drafted=3 * committed, busy_seconds=0.5 * now), load=5), now)
    return registry


def test_pools_sessions_and_goodput(registry):
    numbers = cluster_numbers(registry, DESIRED, heartbeats=6)
    assert numbers.totals == {"heartbeats": 6.0}
    gauges = numbers.gauges
    pools = {name: number for name, number in gauges.items() if name.startswith("replicas")}
    assert pools == {
        "replicas.gateway": 0.0, "replicas.verifier": 2.0, "replicas.drafter": 1.0,
        "replicas_draining.verifier": 1.0, "replicas_draining.drafter": 0.0,
        "replicas_desired.gateway": 1.0, "replicas_desired.verifier": 3.0, "replicas_desired.drafter": 1.0,
    }  # fmt: skip
    assert (gauges["sessions"], gauges["committed_per_s"], gauges["wasted_per_s"]) == (5.0, 120.0, 360.0)
    assert gauges["tokens_over_predicted"] == pytest.approx(1.5)
    assert gauges["seconds_over_predicted"] == pytest.approx(1.25)
    assert gauges["between_steps_share"] == pytest.approx(0.25)
    assert gauges["drafter_utilisation"] == pytest.approx(0.5)


def test_what_is_not_known_is_left_out():
    gauges = cluster_numbers(Registry(ControllerConfig()), DESIRED, 0).gauges
    assert "tokens_over_predicted" not in gauges
    assert "one_more_drafter_per_s" not in gauges


def test_every_figure_of_the_controller_is_fed(registry):
    gauges = cluster_numbers(registry, DESIRED, 6).gauges
    for metric in METRICS:
        if metric.owner == "controller" and metric.kind == "gauge":
            assert any(name.partition(".")[0] == metric.key for name in gauges), metric.key
