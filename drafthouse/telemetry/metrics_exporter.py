"""From a replica's reports to Prometheus, at the pace of its heartbeat.

Promises: nothing here is called per token, and an export that fails costs a log line, never a heartbeat. Knows no Ray:
the instruments (`ray.util.metrics`, or a double of it) come in. Series of which all labels are declared exist from the first export on,
counters at 0, so that the first event shows as a rise.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from drafthouse.telemetry.metric import Metric, Owner
from drafthouse.telemetry.metrics import METRICS
from drafthouse.telemetry.report_numbers import gauges_of, totals_of
from drafthouse.wire.reports import AnyReport, Report

logger = logging.getLogger(__name__)

NOTHING = 5e-324
"""The least float: Ray refuses to add 0, and a counter that was never added to is not exported. It is lost in the first real sum."""


class Instruments(Protocol):
    """What is used of `ray.util.metrics`."""

    Counter: Any
    Gauge: Any
    Histogram: Any


class Samples(Protocol):
    """What a role has measured and not exported yet, as a deque; measured in any thread."""

    def __len__(self) -> int: ...
    def popleft(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Numbers:
    """By metric key: what only grows, what is so now, and what was measured since the last export."""

    totals: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Samples] = field(default_factory=dict)


class MetricsExporter:
    """One replica's metrics. `instruments` make Ray's counters, gauges and histograms."""

    def __init__(self, owner: Owner, replica: str, instruments: Instruments, metrics: tuple[Metric, ...] = METRICS):
        self._replica = replica
        self._metrics = [(metric, _instrument(metric, instruments)) for metric in metrics if metric.owner == owner]
        self._counted: dict[tuple[str, str], float] = {}
        self._failing = False

    def exporting(self, make_report: Callable[[], AnyReport], details: Callable[[], Numbers]) -> Callable[[], AnyReport]:
        """`make_report` for the heartbeat: what it makes is exported too. `details` are of no use to the controller, so heartbeats
        do not carry them; where both have a key, the report counts."""

        def made() -> AnyReport:
            report = make_report()
            self.export(lambda: _joined(report, details()))
            return report

        return made

    def export(self, make: Callable[[], Numbers]) -> None:
        """Counters rise to the totals, gauges are set, samples are taken out and counted."""
        try:
            numbers = make()
            for metric, instrument in self._metrics:
                if metric.kind == "histogram":
                    self._observe(metric, instrument, numbers.samples[metric.key])
                else:
                    self._record(metric, instrument, numbers)
            self._failing = False
        except Exception:  # fault boundary: a replica whose metrics fail goes on serving
            if not self._failing:
                logger.exception("metrics are not exported")
            self._failing = True

    def _record(self, metric: Metric, instrument: Any, numbers: Numbers) -> None:
        if metric.kind == "gauge":
            for value, number in _series(metric, numbers.gauges):
                instrument.set(float(number), self._tags(metric, value))
            return
        for value, number in _series(metric, numbers.totals):
            before = self._counted.get((metric.registered, value))
            if before is None or number > before:
                instrument.inc(max(NOTHING, number - (before or 0.0)), self._tags(metric, value))
                self._counted[metric.registered, value] = number

    def _observe(self, metric: Metric, instrument: Any, samples: Samples) -> None:
        while len(samples):
            instrument.observe(samples.popleft(), self._tags(metric, ""))

    def _tags(self, metric: Metric, value: str) -> dict[str, str]:
        return {"replica": self._replica, metric.label: value} if metric.label else {"replica": self._replica}


def _joined(report: Report, details: Numbers) -> Numbers:
    of_the_report = {"load": report.load, "capacity": report.capacity, "draining": float(report.draining)}
    gauges = {**details.gauges, **gauges_of(report), **of_the_report}
    return Numbers({**details.totals, **totals_of(report)}, gauges, details.samples)


def _instrument(metric: Metric, instruments: Instruments) -> Any:
    if metric.kind == "histogram":
        return instruments.Histogram(metric.registered, metric.help, list(metric.buckets), metric.labels)
    kind = instruments.Counter if metric.kind == "counter" else instruments.Gauge
    return kind(metric.registered, metric.help, metric.labels)


def _series(metric: Metric, numbers: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """(label's value, number) of all that is known; declared values of a label of which nothing is known are 0."""
    if not metric.label:
        if metric.key in numbers:
            yield "", numbers[metric.key]
        return
    prefix = metric.key + "."
    yield from ((value, 0.0) for value in metric.values if prefix + value not in numbers)
    yield from ((key.removeprefix(prefix), number) for key, number in numbers.items() if key.startswith(prefix))
