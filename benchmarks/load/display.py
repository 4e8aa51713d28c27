"""The load bench's tables: points, ratios, and whether they count."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.harness.overruns import print_overruns
from benchmarks.harness.report import Report


def print_load(console: Console, report: Report) -> None:
    settings = report["settings"]
    console.print(_title(settings), style="bold", highlight=False)
    places = dict.fromkeys((p["workload"], p["load"]) for p in report["points"])
    for workload, load in places:
        mine = [p for p in report["points"] if (p["workload"], p["load"]) == (workload, load)]
        _print_place(console, f"{workload} at {load:g} x saturation, {mine[0]['rate']:.2f} requests/s", mine)
    _print_ratios(console, report["ratios"])
    print_overruns(console, report)


def _print_place(console: Console, title: str, points: Sequence[Mapping[str, Any]]) -> None:
    """Nodes per step are of one sequence."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in ("mean s", "95 %", "p99 s", "first s", "ms/tok", "tok/s", "verif.", "accept."):
        table.add_column(heading, justify="right", no_wrap=True)
    for p in points:
        (low, high), steps = p["intervals"]["mean_latency_s"], max(1, p["steps"])
        table.add_row(
            p["policy"], f"{p['mean_latency_s']:.3f}", f"{low:.2f}-{high:.2f}", f"{p['p99_latency_s']:.2f}", f"{p['ttft_s']:.2f}",
            f"{1e3 * p['tpot_s']:.1f}", f"{p['goodput_tokens_per_s']:.0f}", f"{p['verified'] / steps:.2f}", f"{p['accepted'] / steps:.2f}",
        )  # fmt: skip
    console.print(table)


def _title(settings: Mapping[str, Any]) -> str:
    if "url" in settings:
        return f"load on {settings['url']}"
    crowd = f", each sequence standing for {settings['crowd']}" if settings["crowd"] > 1 else ""
    names = (settings["curves"][name]["name"] for name in ("target", "draft"))
    return f"paced load: {' with '.join(names)}, time stretched by {settings['time_scale']:g}{crowd}"


def _print_ratios(console: Console, ratios: Mapping[str, Any]) -> None:
    """Below 1: auto is faster. The control's distance from 1 is what chance does."""
    table = Table(title="auto to the base, 95 % intervals", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for heading in ("ratio", "of", "workload", "load"):
        table.add_column(heading, no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("base", no_wrap=True)
    for name, comparison in ratios.items():
        for measure, part in (("latency", comparison), ("finish", comparison.get("time_to_finish", {}))):
            if "value" in part:
                table.add_row(name.replace("_", " "), measure, "all", "", _cell(part), "", style="bold")
                for p in part["points"]:
                    table.add_row("", "", p["workload"], f"{p['load']:g}", _cell(p), ", ".join(p["base"]))
    console.print(table)


def _cell(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
