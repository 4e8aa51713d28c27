"""The cluster's state in numbers for metrics. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import get_args

from controller.registry import Registry
from drafthouse.membership import Role
from drafthouse.metrics import DRAINING
from drafthouse.metrics_exporter import Numbers


def cluster_numbers(registry: Registry, desired: Mapping[str, int], heartbeats: int) -> Numbers:
    """By metric key; `desired` replicas are by role. Figures that nothing is known about are left out."""
    goodput, reports = registry.goodput(), registry.reports()
    figures = {name: float(value) for name, value in goodput.as_json().items() if isinstance(value, int | float)}
    replicas = Counter(report.role for report in reports)
    draining = Counter(report.role for report in reports if report.draining)
    for role in get_args(Role):
        figures[f"replicas.{role}"] = float(replicas[role])
        figures[f"replicas_desired.{role}"] = float(desired[role])
    for role in DRAINING:
        figures[f"replicas_draining.{role}"] = float(draining[role])
    figures["sessions"] = float(sum(report.load for report in reports if report.role == "drafter"))
    figures["heartbeat_interval_seconds"] = registry.interval_s
    return Numbers({"heartbeats": float(heartbeats)}, figures)
