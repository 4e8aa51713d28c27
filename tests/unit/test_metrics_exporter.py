"""From reports to instruments: counters rise by what is new, gauges follow, samples leave once."""

import logging
from collections import deque
from dataclasses import replace

import pytest

from drafthouse.telemetry.metric import Metric
from drafthouse.telemetry.metrics import METRICS
from drafthouse.telemetry.metrics_exporter import MetricsExporter, Numbers
from drafthouse.wire.reports import DrafterView
from drafthouse.wire.totals import SessionEvents
from tests.unit.reports import verifier_report, verifier_totals


class _Instrument:
    def __init__(self, name, description, *rest):
        self.name, self.description, self.tag_keys = name, description, rest[-1]
        self.boundaries = rest[0] if len(rest) > 1 else []
        self.series, self.observed = {}, []

    def _key(self, tags):
        assert set(tags) == set(self.tag_keys)
        return tuple(tags[key] for key in self.tag_keys)

    def inc(self, by, tags):
        assert by > 0, "Ray refuses anything else"
        self.series[self._key(tags)] = self.series.get(self._key(tags), 0) + by

    def set(self, to, tags):
        self.series[self._key(tags)] = to

    def observe(self, value, tags):
        self.observed.append((self._key(tags), value))


class _Instruments:
    """As `ray.util.metrics`, with the numbers to look at."""

    def __init__(self):
        self.made = {}
        self.Counter = self.Gauge = self.Histogram = self._make

    def _make(self, name, *args):
        self.made[name] = _Instrument(name, *args)
        return self.made[name]


REPORT = verifier_report(
    "v", replace(verifier_totals(steps=5), sessions=SessionEvents(opened=2)), load=3, capacity=9, price=0.25,
    drafters={"d1": DrafterView(trust=0.5, banned=False, round_trip_seconds=None)},
)  # fmt: skip


@pytest.fixture
def ray() -> _Instruments:
    return _Instruments()


def _series(ray: _Instruments, name: str) -> dict:
    return ray.made[f"drafthouse_verifier_{name}"].series


def _samples(*values: float) -> dict:
    return {"queue_seconds": deque(values)}


def test_counters_rise_by_what_is_new_and_start_at_nothing(ray):
    exporter = MetricsExporter("verifier", "v", ray)
    numbers = iter([Numbers({"steps": steps, "preemptions": 0.0}, samples=_samples()) for steps in (5.0, 7.0)])
    exporter.export(lambda: next(numbers))
    assert _series(ray, "steps") == {("v",): 5.0}
    assert _series(ray, "preemptions") == {("v",): pytest.approx(0.0)}
    exporter.export(lambda: next(numbers))
    assert _series(ray, "steps") == {("v",): 7.0}


def test_what_starts_at_nothing_adds_nothing(ray):
    exporter = MetricsExporter("verifier", "v", ray)
    for steps in (0.0, 0.0, 3.0):
        exporter.export(lambda steps=steps: Numbers({"steps": steps}, samples=_samples()))
    assert _series(ray, "steps") == {("v",): 3.0}


def test_the_report_is_exported_with_its_details_and_handed_on(ray):
    exporter = MetricsExporter("verifier", "v", ray)
    make = exporter.exporting(lambda: REPORT, lambda: Numbers({"accepted_source.lookup": 4.0}, {"gain": 1.5}, _samples(0.02, 3.0)))
    assert make() is REPORT
    assert _series(ray, "capacity") == {("v",): 9.0}
    assert _series(ray, "gain") == {("v",): 1.5}
    assert _series(ray, "trust") == {("v", "d1"): 0.5}
    assert _series(ray, "round_trip_seconds") == {}, "there was none yet"
    assert _series(ray, "accepted_source")[("v", "lookup")] == 4.0
    assert _series(ray, "session_events")[("v", "opened")] == 2.0
    assert _series(ray, "session_events")[("v", "banned")] == pytest.approx(0.0)
    assert ray.made["drafthouse_verifier_queue_seconds"].observed == [(("v",), 0.02), (("v",), 3.0)]


def test_samples_are_taken_once(ray):
    exporter, samples = MetricsExporter("verifier", "v", ray), _samples(0.5)
    for _ in range(2):
        exporter.export(lambda: Numbers(samples=samples))
    assert len(ray.made["drafthouse_verifier_queue_seconds"].observed) == 1


def test_what_is_not_known_is_left_out(ray):
    MetricsExporter("verifier", "v", ray).export(lambda: Numbers(samples=_samples()))
    assert _series(ray, "price") == _series(ray, "steps") == {}


def test_an_export_that_fails_costs_one_line_and_no_report(ray, caplog):
    exporter = MetricsExporter("verifier", "v", ray)

    def broken() -> Numbers:
        raise KeyError("no such gauge")

    make = exporter.exporting(lambda: REPORT, broken)
    with caplog.at_level(logging.ERROR):
        assert [make(), make()] == [REPORT, REPORT]
    assert len(caplog.records) == 1
    assert "no such gauge" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "Steps"},
        {"key": "a.b"},
        {"kind": "histogram"},
        {"kind": "gauge", "buckets": (1.0,)},
        {"kind": "histogram", "buckets": (2.0, 1.0)},
        {"values": ("a",)},
        {"label": "replica"},
    ],
)
def test_a_declaration_that_prometheus_would_refuse_is_refused(wrong):
    with pytest.raises(ValueError, match="metric"):
        Metric(**{"owner": "verifier", "kind": "counter", "key": "steps", "unit": "steps", "help": "Steps.", **wrong})


def test_every_metric_has_a_name_of_its_own_a_unit_and_a_sentence():
    assert len({metric.exported for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.help.endswith("."), metric.registered
        assert metric.unit
        assert (metric.unit == "s") == metric.registered.endswith("_seconds"), metric.registered


def test_every_role_makes_all_of_its_metrics_with_ray_prefixed_names(ray):
    for owner in ("gateway", "verifier", "drafter", "controller"):
        MetricsExporter(owner, "r", ray)
    assert set(ray.made) == {metric.registered for metric in METRICS}
    metric = next(metric for metric in METRICS if metric.key == "steps")
    assert (metric.registered, metric.exported) == ("drafthouse_verifier_steps", "ray_drafthouse_verifier_steps_total")
