"""What a metric is: the form in which `drafthouse/telemetry/metrics.py` declares them.

Promises: a declaration that Prometheus would refuse is refused when the module is imported.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from drafthouse.wire.membership import Role

Owner = Role | Literal["controller"]
Kind = Literal["counter", "gauge", "histogram"]

PREFIX = "ray_"
"""Ray puts it before every name that it exports."""

LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""From a small model alone to the patience of a client."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one role.

    `key` is where its value stands in the role's report: among the totals for a counter, the gauges for a gauge, the samples
    for a histogram. With a `label` its values stand under `key.VALUE`, one series for each VALUE; those in `values` exist from the start,
    at 0. Every series has the label `replica` too. `unit` says what is counted; seconds and bytes stand in the name as well. `buckets`
    are upper bounds, ascending, of a histogram.
    """

    owner: Owner
    kind: Kind
    key: str
    unit: str
    help: str
    name: str = ""
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.match(self.short):
            raise ValueError(f"metric {self.short!r}: names are words of a to z and 0 to 9 with _ between them")
        if (self.kind == "histogram") != bool(self.buckets) or any(a >= b for a, b in zip(self.buckets, self.buckets[1:], strict=False)):
            raise ValueError(f"metric {self.short}: a histogram, and nothing else, has buckets, and they rise")
        if self.values and not self.label or self.label == "replica":
            raise ValueError(f"metric {self.short}: values belong to a label of its own")

    @property
    def short(self) -> str:
        """Its name within its role."""
        return self.name or self.key

    @property
    def registered(self) -> str:
        """The name to register with Ray."""
        return f"drafthouse_{self.owner}_{self.short}"

    @property
    def exported(self) -> str:
        """The name in Prometheus; a histogram's series add _bucket, _sum and _count."""
        return f"{PREFIX}{self.registered}" + ("_total" if self.kind == "counter" else "")

    @property
    def labels(self) -> tuple[str, ...]:
        return ("replica", self.label) if self.label else ("replica",)


def maker(owner: Owner, kind: Kind) -> Any:
    """What declares metrics of one role and kind."""

    def make(key: str, unit: str, help: str, **more: Any) -> Metric:
        return Metric(owner, kind, key, unit, help, **more)

    return make


def answers(gauge: Any) -> Metric:
    """Of every replica that reports."""
    metric: Metric = gauge(
        "controller_answers", "0 or 1", "Whether the last heartbeat was answered; at 0 the replica goes on with what it knows."
    )
    return metric
