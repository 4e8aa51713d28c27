"""PromQL held to the declared metrics: names, labels, their values, and what may be done with which kind.

Promises: an expression over anything that Drafthouse does not export is a fault that names it.
"""

from collections.abc import Iterator
from typing import Any

import promql_parser as promql

from drafthouse.telemetry.metric import Metric
from drafthouse.telemetry.metrics import METRICS

EXTERNAL = {"SessionName", "ray_io_cluster", "le", "replica"}
"""Labels that Ray, KubeRay's PodMonitor and histograms bring along, and the one that every metric has."""

RATES = {"rate", "increase", "irate"}


def _series() -> dict[str, Metric]:
    """Metrics by the names of their series."""
    found: dict[str, Metric] = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_count") if metric.kind == "histogram" else ("",)  # Ray's _sum is of bucket middles
        found |= {metric.exported + suffix: metric for suffix in suffixes}
    return found


SERIES = _series()


def faults(expression: str) -> list[str]:
    """One line for each fault; Grafana's variables are taken for what they stand for."""
    try:
        parsed = promql.parse(expression.replace("$__rate_interval", "5m"))
    except ValueError as error:
        return [f"no PromQL: {error}"]
    return list(_faults(parsed, None))


def names(expression: str) -> set[str]:
    """Series that it reads."""
    return {selector.name for selector, _ in _selectors(promql.parse(expression.replace("$__rate_interval", "5m")), None)}


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, promql.Call):
        yield from node.args
    elif isinstance(node, promql.BinaryExpr):
        yield from (node.lhs, node.rhs)
    elif isinstance(node, promql.AggregateExpr | promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
        yield node.expr


def _selectors(node: Any, function: str | None) -> Iterator[tuple[Any, str | None]]:
    """Selectors, each with the function that takes its range."""
    if isinstance(node, promql.MatrixSelector):
        yield node.vector_selector, function
    elif isinstance(node, promql.VectorSelector):
        yield node, None
    inside = node.func.name if isinstance(node, promql.Call) else None
    for child in _children(node):
        yield from _selectors(child, inside)


def _faults(node: Any, function: str | None) -> Iterator[str]:
    for selector, ranged in _selectors(node, function):
        metric = SERIES.get(selector.name)
        if metric is None:
            yield f"{selector.name}: no such metric"
            continue
        if (ranged in RATES) != (metric.kind != "gauge"):
            yield f"{selector.name}: a {metric.kind} under {ranged or 'no function of a range'}"
        for matcher in selector.matchers.matchers:
            yield from _matcher_faults(metric, matcher)
    known = EXTERNAL | {metric.label for name in _names_below(node) if (metric := SERIES.get(name)) is not None and metric.label}
    for label in _grouping(node):
        if label not in known:
            yield f"{label}: no label of what is grouped by it"


def _matcher_faults(metric: Metric, matcher: Any) -> Iterator[str]:
    if matcher.name not in EXTERNAL | set(metric.labels):
        yield f"{metric.exported}: has no label {matcher.name}"
    elif matcher.name == metric.label and metric.values:
        for value in matcher.value.split("|"):
            if value not in metric.values:
                yield f"{metric.exported}: {matcher.name} is never {value}"


def _names_below(node: Any) -> set[str]:
    return {selector.name for selector, _ in _selectors(node, None)}


def _grouping(node: Any) -> set[str]:
    """Labels by which anything is grouped or matched."""
    found: set[str] = set()
    if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
        found |= set(node.modifier.labels)
    if isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
        found |= set(node.modifier.matching.labels)
    for child in _children(node):
        found |= _grouping(child)
    return found
