"""What deciding costs: time of `select` and `price`, as the verifier calls them at each step.

Promises: one thread; every node competes, with no limit below their number, which is the dearest
case; confidences come as an array. Median and 99th percentile in microseconds.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness.report import Report
from deployments.cli.options import machine
from drafthouse.engine.curve_files import load_curve
from drafthouse.policy.latency import LatencyModel, MeasuredLatency
from drafthouse.policy.selection import price, select

CASES = ((1, 96), (32, 32), (256, 32))
"""Sequences, and nodes of each one's tree."""

TREES_SEED = 0
KV_TOKENS = 512
"""Cached tokens of each sequence."""


def run_decisions(repetitions: int) -> Report:
    rows = []
    for name, latency in curves().items():
        for sequences, nodes in CASES:
            rows.append({"curve": name, "sequences": sequences, "nodes": nodes} | _case(latency, sequences, nodes, repetitions))
    return {"machine": machine(), "settings": {"repetitions": repetitions, "seed": TREES_SEED}, "decisions": rows}


def curves() -> dict[str, LatencyModel]:
    """A published line, and a measured curve with a step after every 16 tokens and a dip before each."""
    knots = {n: 1e-3 * (10 + 2 * (n // 16) - 0.5 * (n % 16 == 15)) for n in range(1, 513)}
    return {"linear": load_curve("llama-8b-1xh100"), "measured": MeasuredLatency(knots, per_kv_token=1e-7)}


def _case(latency: LatencyModel, sequences: int, nodes: int, repetitions: int) -> dict[str, Any]:
    confidences = forest(sequences, nodes)
    kv_tokens = sequences * KV_TOKENS
    goodput = sequences / latency.seconds(sequences, kv_tokens)
    selected = select(confidences, sequences, 0, kv_tokens, goodput, latency, len(confidences))
    return {
        "selected": len(selected),
        "select_us": _microseconds(
            lambda: select(confidences, sequences, 0, kv_tokens, goodput, latency, len(confidences)), repetitions
        ),
        "price_us": _microseconds(lambda: price(sequences, kv_tokens, goodput, latency), repetitions),
    }  # fmt: skip


def forest(sequences: int, nodes: int) -> np.ndarray:
    """Path confidences of random trees, one after another, parents before children: `[sequences * nodes]`."""
    random = np.random.default_rng(TREES_SEED)
    edges = random.beta(2.0, 2.0, (sequences, nodes))
    for node in range(1, nodes):
        parents = random.integers(-1, node, sequences)  # -1: the root
        edges[:, node] *= np.where(parents < 0, 1.0, edges[np.arange(sequences), parents])
    return edges.ravel()


def _microseconds(call: Callable[[], object], repetitions: int) -> dict[str, float]:
    times = np.empty(repetitions)
    for i in range(repetitions):
        started = time.perf_counter_ns()
        call()
        times[i] = time.perf_counter_ns() - started
    return {"median": float(np.median(times)) / 1e3, "p99": float(np.quantile(times, 0.99)) / 1e3}


def print_decisions(console: Console, report: Report) -> None:
    table = Table(title="decision cost of a step, microseconds on one core", title_justify="left")
    table.add_column("curve")
    for heading in ("sequences", "nodes each", "selected", "select\nmedian", "\np99", "price\nmedian", "\np99"):
        table.add_column(heading, justify="right")
    for row in report["decisions"]:
        times = [f"{row[call][figure]:.1f}" for call in ("select_us", "price_us") for figure in ("median", "p99")]
        table.add_row(row["curve"], str(row["sequences"]), str(row["nodes"]), str(row["selected"]), *times)
    console.print(table)
