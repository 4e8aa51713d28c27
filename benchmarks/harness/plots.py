"""Plots of load benches, as PNG files.

Promises: drawn without a display; a folder that cannot be written is a ConfigError that names --plots.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drafthouse.errors import ConfigError

Report = Mapping[str, Any]

DPI = 120
COLOURS = {
    "auto": "#0b62a4", "auto again": "#7fb3d9", "off": "#555555", "chain3": "#d1751f", "tree": "#3a9442", "batch-table": "#a04fa8",
}  # fmt: skip


def check_folder(folder: pathlib.Path | None) -> None:
    """Makes it; before a run of minutes, not after it. Raises ConfigError naming --plots."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".writable").touch()
            (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"--plots {folder}: {error.strerror or error}") from error


def plot_latency(report: Report, folder: pathlib.Path) -> pathlib.Path:
    """Mean latency (with its interval) and p99 against rate, a column for each workload, a line for each policy."""
    points = report["points"]
    workloads = list(dict.fromkeys(p["workload"] for p in points))
    figure = new_figure(5.2 * len(workloads), 7.0)
    axes = figure.subplots(2, len(workloads), squeeze=False, sharex="col")
    for column, workload in enumerate(workloads):
        for policy in dict.fromkeys(p["policy"] for p in points):
            mine = sorted((p for p in points if (p["workload"], p["policy"]) == (workload, policy)), key=lambda p: p["rate"])
            rates, means = [p["rate"] for p in mine], [p["mean_latency_s"] for p in mine]
            low, high = ([p["intervals"]["mean_latency_s"][end] for p in mine] for end in (0, 1))
            below, above = ([abs(m - e) for m, e in zip(means, ends, strict=True)] for ends in (low, high))
            style = {"color": COLOURS.get(policy), "marker": "o", "markersize": 3.5, "linewidth": 1.4}
            axes[0][column].errorbar(rates, means, yerr=[below, above], capsize=2, label=policy, **style)
            axes[1][column].plot(rates, [p["p99_latency_s"] for p in mine], **style)
        axes[0][column].set_title(workload + (" (paced)" if report["paced"] else ""))
        axes[1][column].set_xlabel("requests per second")
    for row, label in enumerate(("mean latency, s", "p99 latency, s")):
        axes[row][0].set_ylabel(label)
        for axis in axes[row]:
            axis.set_ylim(bottom=0.0)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    return save(figure, folder / "latency.png")


def plot_steps(report: Report, folder: pathlib.Path) -> pathlib.Path:
    """Requests in flight, depth and price over time, grey until they had followed each change."""
    series, phases = report["series"], report["phases"]
    at = [s["at_s"] for s in series]
    figure = new_figure(9.0, 7.0)
    load, depth, price = figure.subplots(3, 1, sharex=True)
    edges = [p["start_s"] for p in phases] + [phases[-1]["end_s"]]
    load.stairs([p["in_flight"] for p in phases], edges, color="#555555", label="in flight, clients")
    load.plot(at, [s["running"] for s in series], color="#d1751f", label="running, verifier", linewidth=1.2)
    load.set_ylabel("requests")
    load.legend(fontsize=8)
    depth.plot(at, [float("nan") if s["depth"] is None else s["depth"] for s in series], color="#0b62a4", linewidth=1.2)
    depth.set_ylabel("nodes verified per\nsequence and step")
    price.plot(at, [s["price"] for s in series], color="#a04fa8", linewidth=1.2)
    price.set_ylabel("price of a node, tokens")
    price.set_xlabel("seconds (paced, stretched)" if report["paced"] else "seconds")
    for axis, name in ((depth, "depth"), (price, "price")):
        for change in report["changes"][name]:
            if change["settle_s"] is not None:
                axis.axvspan(change["at_s"], change["at_s"] + change["settle_s"], color="#888888", alpha=0.25)
    for axis in (load, depth, price):
        axis.grid(alpha=0.3)
    return save(figure, folder / "load-steps.png")


def plot_scaling(report: Report, folder: pathlib.Path) -> pathlib.Path:
    """Requests in flight, replicas of each pool (line: that report; dashes: desired) and goodput over time."""
    series, phases = report["series"], report["phases"]
    at = [s["at_s"] for s in series]
    figure = new_figure(9.0, 8.0)
    load, verifiers, drafters, goodput = figure.subplots(4, 1, sharex=True)
    edges = [p["start_s"] for p in phases] + [phases[-1]["end_s"]]
    load.stairs([p["in_flight"] for p in phases], edges, color="#555555", label="in flight, clients")
    load.plot(at, [s["queue"] for s in series], color="#d1751f", linewidth=1.2, label="without a place, verifiers")
    load.set_ylabel("requests")
    for axis, pool, colour in ((verifiers, "verifier", "#0b62a4"), (drafters, "drafter", "#3a9442")):
        axis.step(at, [s["desired"][pool] for s in series], where="post", color=colour, linestyle="--", alpha=0.6, label="desired")
        axis.step(at, [s["actual"][pool] for s in series], where="post", color=colour, label="actual")
        axis.set_ylabel(f"{pool}s")
        axis.set_ylim(bottom=-0.1)
        axis.yaxis.get_major_locator().set_params(integer=True)
    goodput.plot(at, [s["goodput"] for s in series], color="#a04fa8", linewidth=1.2)
    goodput.set_ylabel("committed tokens/s\n(last 10 s)")
    goodput.set_xlabel("seconds (paced, stretched)" if report["paced"] else "seconds")
    for axis in (load, verifiers, drafters):
        axis.legend(fontsize=8)
    for axis in (load, verifiers, drafters, goodput):
        axis.grid(alpha=0.3)
    return save(figure, folder / "scaling.png")


def new_figure(width: float, height: float) -> Figure:
    """Of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    """Returns `path`. Raises ConfigError naming --plots."""
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise ConfigError(f"--plots {path.parent}: {error.strerror or error}") from error
    return path
