"""Reports as numbers: what metrics and `/v1/cluster` take of them."""

import json
import math
import pickle
from dataclasses import replace

import pytest

from drafthouse.telemetry.metrics import METRICS
from drafthouse.telemetry.report_numbers import as_json, gauges_of, totals_of
from drafthouse.wire.reports import DrafterView, Report
from drafthouse.wire.totals import PacedTotals
from simulator.typical_reports import typical_report
from tests.unit.reports import verifier_report, verifier_totals

OF_THE_REPORT = {"load", "capacity", "draining"}
DETAILS = {
    "gateway": {"verifiers", "controller_answers", "finish", "key_tokens", "loop_lag"},
    "verifier": {
        "reached_depth", "accepted_depth", "verified_source", "accepted_source", "plain_goodput", "gain", "synthetic", "controller_answers",
    },
    "drafter": {"drafted_source", "controller_answers"},
}  # fmt: skip
"""Of metrics only: heartbeats do not carry them."""


def full(role) -> Report:
    report = typical_report(role, 3, (1, 2))
    return report if role == "gateway" else replace(report, totals=replace(report.totals, paced=PacedTotals(9, 1)))


@pytest.mark.parametrize("role", ["gateway", "verifier", "drafter"])
def test_every_metric_of_a_role_has_its_number(role: str) -> None:
    totals, gauges = totals_of(full(role)), gauges_of(full(role))
    for metric in METRICS:
        if metric.owner == role and metric.kind != "histogram" and metric.key not in DETAILS[role] | OF_THE_REPORT:
            numbers = totals if metric.kind == "counter" else gauges
            keys = [key for key in numbers if key.partition(".")[0] == metric.key]
            assert keys == [metric.key] if not metric.label else keys, metric.key


def test_a_verifier_tells_of_each_of_its_drafters() -> None:
    views = {"d1": DrafterView(0.5, True, 0.002), "d2": DrafterView(1.0, False, None)}
    gauges = gauges_of(verifier_report(drafters=views))
    assert {name: number for name, number in gauges.items() if ".d" in name} == {
        "trust.d1": 0.5, "banned.d1": 1, "round_trip_seconds.d1": 0.002, "trust.d2": 1, "banned.d2": 0,
    }  # fmt: skip
    assert gauges["drafters"] == 2


def test_what_is_not_known_or_not_finite_is_left_out() -> None:
    report = verifier_report(totals=verifier_totals(run_seconds=math.nan), price=math.inf, synthetic_acceptance=None)
    assert "run_seconds" not in totals_of(report)
    assert "paced_steps" not in totals_of(report)
    assert not {"price", "synthetic_acceptance"} & gauges_of(report).keys()
    assert gauges_of(replace(report, synthetic_acceptance=0.0))["synthetic_acceptance"] == 0.0


@pytest.mark.parametrize("role", ["gateway", "verifier", "drafter"])
def test_a_report_survives_its_way(role: str) -> None:
    report = full(role)
    assert pickle.loads(pickle.dumps(report)) == report
    assert json.loads(json.dumps(as_json(report), allow_nan=False))["role"] == role
