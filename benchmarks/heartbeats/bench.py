"""Heartbeats per second that one controller takes: the registry alone in this process, then the deployment on a real Ray Serve.

Promises: reports are as large as those that serve; every replica of a pool has reported before the clock
runs, and directives are made for all roles in proportion. The registry's times are CPU seconds of one core.
"""

import random
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.report import Report as BenchReport
from controller.pairing import MAX_DRAFTERS_PER_VERIFIER
from controller.registry import Registry, interval
from deployments.cli.options import machine
from drafthouse.config.serving import ControllerConfig
from drafthouse.errors import ConfigError
from drafthouse.wire.membership import Role
from drafthouse.wire.reports import Report
from simulator.typical_reports import typical_report

REPLICAS_PER_GATEWAY = 50
DRAFTERS_PER_VERIFIER = 2
LONGEST_INTERVAL_S = 5.0
"""A pool is carried up to here: with the default of six missed heartbeats a dead replica is then noticed after half a minute."""


def pool_sizes(text: str) -> list[int]:
    """Raises ConfigError naming --replicas."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 3 or max(sizes) > 100_000:
        raise ConfigError(f"--replicas {text}: numbers between 3 and 100000, with commas between")
    return sizes


def pool(replicas: int) -> list[Report]:
    """One report of each: gateways, and twice as many drafters as verifiers, in random order."""
    gateways = max(1, replicas // REPLICAS_PER_GATEWAY)
    verifiers = max(1, (replicas - gateways) // (1 + DRAFTERS_PER_VERIFIER))
    counts: dict[Role, int] = {"gateway": gateways, "verifier": verifiers, "drafter": replicas - gateways - verifiers}
    reports = [_report(role, i, counts["drafter"]) for role, count in counts.items() for i in range(count)]
    random.Random(0).shuffle(reports)
    return reports


def _report(role: Role, number: int, drafters: int) -> Report:
    mine = range(min(drafters, MAX_DRAFTERS_PER_VERIFIER)) if role == "verifier" else ()
    return typical_report(role, number, tuple((number + i) % drafters for i in mine))


def due(replicas: int, config: ControllerConfig) -> dict[str, float]:
    """What the interval rule makes of a pool."""
    interval_s = interval(replicas, config.heartbeat_s)
    return {"replicas": replicas, "interval_s": interval_s, "due_per_s": replicas / interval_s}


def run_registry(replicas: int, seconds: float, config: ControllerConfig) -> dict[str, Any]:
    """`join_s`: all replicas of the pool report for the first time, one after another; `pair_ms`: pairs are renewed."""
    reports, registry = pool(replicas), Registry(config)
    started = time.process_time()
    for report in reports:
        registry.observe(report, 0.0)
        registry.directive_for(report, 0.0)
    joined = time.process_time()
    for report in reports:  # those told to come back soon, while the pool was small, would be missed otherwise
        registry.observe(report, 0.0)
    interval_s = registry.interval_s
    pairing = time.process_time()
    registry.directive_for(next(r for r in reports if r.role == "verifier"), interval_s)
    paired = time.process_time()
    by_role = _drive(registry, reports, interval_s, seconds)
    beats = sum(count for count, _ in by_role.values())
    busy = sum(spent for _, spent in by_role.values())
    snapshot_started = time.process_time()
    registry.snapshot(interval_s)
    return {
        **due(replicas, config), "sustained_per_s": beats / busy,
        "microseconds_by_role": {role: 1e6 * spent / count for role, (count, spent) in by_role.items()},
        "join_s": joined - started, "pair_ms": 1e3 * (paired - pairing), "snapshot_ms": 1e3 * (time.process_time() - snapshot_started),
    }  # fmt: skip


def _drive(registry: Registry, reports: Sequence[Report], now: float, seconds: float) -> dict[str, tuple[int, float]]:
    """Reports in turn, in simulated time as far apart as they are due; heartbeats and seconds by role."""
    gap = registry.interval_s / len(reports)
    by_role: dict[str, tuple[int, float]] = {}
    started = before = time.process_time()
    for report in cycle(reports):
        now += gap
        registry.observe(report, now)
        registry.directive_for(report, now)
        after = time.process_time()
        count, spent = by_role.get(report.role, (0, 0.0))
        by_role[report.role] = (count + 1, spent + after - before)
        before = after
        if after - started > seconds and sum(n for n, _ in by_role.values()) >= len(reports):
            return by_role
    raise AssertionError("a cycle ends only by returning")


def carried(sustained_per_s: float, limit_per_s: float, longest_s: float = LONGEST_INTERVAL_S) -> int:
    """Replicas in the largest pool whose interval, which keeps the load at `limit_per_s`, is not beyond `longest_s`."""
    return int(min(sustained_per_s, limit_per_s) * longest_s)


def report_of(registry: list[dict[str, Any]], served: list[dict[str, Any]], config: ControllerConfig, limit_per_s: float) -> BenchReport:
    lowest = min((row["sustained_per_s"] for row in served), default=None)
    return {
        "machine": machine(),
        "settings": {"heartbeat_s": config.heartbeat_s, "limit_per_s": limit_per_s, "longest_interval_s": LONGEST_INTERVAL_S},
        "registry": registry,
        "served": served,
        "carried_replicas": carried(lowest, limit_per_s) if lowest is not None else None,
        "could_carry_replicas": carried(lowest, lowest) if lowest is not None else None,
    }


def print_heartbeats(console: Console, report: BenchReport) -> None:
    alone = Table(title="the registry alone, one core", title_justify="left", padding=0)
    headings = (
        "replicas",
        "every\ns",
        "due\n/s",
        "taken\n/s",
        "verifier\nus",
        "drafter\nus",
        "gateway\nus",
        "join\ns",
        "pair\nms",
        "status\nms",
    )
    for heading in headings:
        alone.add_column(heading, justify="right")
    for row in report["registry"]:
        micros = [f"{row['microseconds_by_role'][role]:.0f}" for role in ("verifier", "drafter", "gateway")]
        alone.add_row(
            str(row["replicas"]), f"{row['interval_s']:.2f}", f"{row['due_per_s']:.0f}", f"{row['sustained_per_s']:.0f}", *micros,
            f"{row['join_s']:.2f}", f"{row['pair_ms']:.0f}", f"{row['snapshot_ms']:.0f}",
        )  # fmt: skip
    console.print(alone)
    if not report["served"]:
        return
    served = Table(title="the deployment, through its Serve handle", title_justify="left", padding=0)
    for heading in ("replicas", "due\n/s", "taken\n/s", "median\nms", "p99\nms", "CPU ms\neach", "of a\ncore"):
        served.add_column(heading, justify="right")
    for row in report["served"]:
        served.add_row(
            str(row["replicas"]), f"{row['due_per_s']:.0f}", f"{row['sustained_per_s']:.0f}", f"{row['median_ms']:.1f}",
            f"{row['p99_ms']:.1f}", f"{row['cpu_ms']:.2f}", f"{row['cpu_share']:.0%}",
        )  # fmt: skip
    console.print(served)
    settings = report["settings"]
    console.print(
        f"The interval keeps the load at {settings['limit_per_s']:.0f} heartbeats/s and reaches {settings['longest_interval_s']:g} s at "
        f"{report['carried_replicas']} replicas; all that was sustained would carry {report['could_carry_replicas']}.",
        highlight=False,
    )
