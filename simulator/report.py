"""What a simulation says: one object for `--json`, tables for the terminal, a plot. Everything in it is simulated, and labelled so."""

import pathlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from drafthouse.errors import ConfigError
from simulator.check import Checked
from simulator.limits import Limits
from simulator.options import Options
from simulator.sweep import Point

ROWS = (
    ("requests served", "served", "{:,.0f}"), ("refused", "refused", "{:,.0f}"),
    ("mean latency, s", "mean_latency_s", "{:.3f}"), ("p99 latency, s", "p99_latency_s", "{:.3f}"),
    ("time to first token, s", "ttft_s", "{:.3f}"),
    ("goodput, tokens/s", "goodput_tokens_per_s", "{:,.0f}"), ("the same, per verifier", "goodput_per_verifier", "{:,.1f}"),
    ("tokens per sequence and step", "tokens_per_step", "{:.2f}"), ("nodes per sequence and step", "nodes_per_step", "{:.2f}"),
    ("sequences per step", "sequences_per_step", "{:.1f}"), ("nodes accepted", "accepted_share", "{:.1%}"),
    ("verifiers busy", "verifier_utilisation", "{:.1%}"), ("drafters busy", "drafter_utilisation", "{:.1%}"),
    ("controller busy", "controller_utilisation", "{:.1%}"), ("verifiers' busy time between steps", "between_steps_share", "{:.1%}"),
    ("price of a node, tokens", "price", "{:.3f}"), ("price floor, tokens", "price_floor", "{:.3f}"),
    ("heartbeats per second", "heartbeats_per_s", "{:.0f}"),
)  # fmt: skip

Report = dict[str, Any]

ERROR_LIMIT = 0.15
"""Of a forecast's mean latency: beyond it the simulator does not stand for the cluster."""


def build_report(options: Options, trace: str, points: Sequence[Point]) -> Report:
    """`points` hold the pool sizes, the rate and every figure of `cluster.Outcome`."""
    return {
        "simulated": True,
        "points": [{"verifiers": p.verifiers, "drafters": p.drafters, "rate": p.rate, **asdict(p.outcome)} for p in points],
        "settings": {
            "trace": trace, "target": asdict(options.target), "draft": asdict(options.draft), "time_scale": options.time_scale,
            "speculation": asdict(options.speculation), "seconds": options.seconds, "requests": options.requests,
            "round_trip_s": options.round_trip_s, "overheads": asdict(options.overheads),
            "workload": options.workload, "seed": options.seed,
            "config": options.config.model_dump(mode="json", include={"verifier", "drafter", "gateway", "controller", "tree"}),
        },
    }  # fmt: skip


def print_point(console: Console, point: Point) -> None:
    rate = f"{point.rate:g} requests/s" if point.rate else "the trace's own arrivals"
    table = Table(title=f"simulated: {point.verifiers} verifiers, {point.drafters} drafters, {rate}", title_justify="left")
    table.add_column("figure")
    table.add_column("", justify="right")
    figures = asdict(point.outcome)
    for label, name, form in ROWS:
        table.add_row(label, form.format(figures[name]))
    console.print(table)


def print_sweep(console: Console, points: Sequence[Point]) -> None:
    table = Table(title="simulated", title_justify="left")
    headings = ("veri-\nfiers", "draf-\nters", "tokens\n/s", "per ve-\nrifier", "mean\ns", "tokens\n/step", "nodes\n/step", "ver.\nbusy",
                "dra.\nbusy", "price", "floor")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for p in points:
        o = p.outcome
        table.add_row(
            str(p.verifiers), str(p.drafters), f"{o.goodput_tokens_per_s:,.0f}", f"{o.goodput_per_verifier:,.0f}",
            f"{o.mean_latency_s:.3f}",
            f"{o.tokens_per_step:.2f}", f"{o.nodes_per_step:.2f}", f"{o.verifier_utilisation:.0%}", f"{o.drafter_utilisation:.0%}",
            f"{o.price:.3f}", f"{o.price_floor:.3f}",
        )  # fmt: skip
    console.print(table)


def plot(points: Sequence[Point], path: pathlib.Path) -> None:
    """Goodput against drafters, a line for each count of verifiers: in all, and per verifier against drafters per verifier."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    total, each = figure.subplots(1, 2)
    for verifiers in sorted({p.verifiers for p in points}):
        mine = sorted((p for p in points if p.verifiers == verifiers), key=lambda p: p.drafters)
        label, style = f"{verifiers} verifiers", {"marker": "o", "markersize": 3.5, "linewidth": 1.4}
        total.plot([p.drafters for p in mine], [p.outcome.goodput_tokens_per_s for p in mine], label=label, **style)
        each.plot([p.drafters / p.verifiers for p in mine], [p.outcome.goodput_per_verifier for p in mine], label=label, **style)
    total.set_xlabel("drafters")
    total.set_ylabel("goodput, tokens/s (simulated)")
    each.set_xlabel("drafters per verifier")
    each.set_ylabel("goodput per verifier, tokens/s (simulated)")
    for axis in (total, each):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    total.legend(fontsize=8)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {path}: {error}") from error


def print_limits(console: Console, found: Sequence[Limits]) -> None:
    table = Table(title="control plane, computed from costs measured here", title_justify="left")
    headings = ("veri-\nfiers", "draf-\nters", "report\nevery", "contr.\nbusy", "dead\nafter", "new\npairs", "table\nKiB", "pick\nus",
                "streams\nof ver.", "of\ndra.")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for f in found:
        table.add_row(
            str(f.verifiers), str(f.drafters), f"{f.interval_s:.1f}", f"{f.controller_share:.0%}", f"{f.silent_s:.0f}",
            f"{f.pairing_s:.2f}", f"{f.table_bytes / 1024:.0f}", f"{1e6 * f.pick_s:.0f}", str(f.streams_per_verifier),
            f"{f.streams_per_drafter:.1f}",
        )  # fmt: skip
    console.print(table)


def check_report(checked: Sequence[Checked]) -> Report:
    """`worst_error` is of the points that nothing was fitted on."""
    forecasts = [abs(c.error) for c in checked if not c.fitted]
    if not forecasts:
        raise ConfigError("--check: the report has no point beside the two that overheads are fitted on")
    return {
        "simulated": True,
        "points": [{**asdict(c), "error": c.error} for c in checked],
        "worst_error": max(forecasts), "mean_error": sum(forecasts) / len(forecasts), "limit": ERROR_LIMIT,
    }  # fmt: skip


def print_check(console: Console, report: Report) -> None:
    table = Table(title="mean latency, simulated against live", title_justify="left")
    for heading in ("workload", "rate /s", "policy", "live s", "simulated s", "error"):
        table.add_column(heading, justify="left" if heading in ("workload", "policy") else "right")
    for p in report["points"]:
        note = "fitted" if p["fitted"] else f"{p['error']:+.1%}"
        table.add_row(p["workload"], f"{p['rate']:.3g}", p["policy"], f"{p['live_s']:.3f}", f"{p['simulated_s']:.3f}", note)
    console.print(table)
    console.print(f"forecasts: worst error {report['worst_error']:.1%}, mean {report['mean_error']:.1%}", highlight=False)
