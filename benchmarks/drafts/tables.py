"""Tables and plot of `bench drafts` and `bench gain`.

Promises: drawn without a display; a folder that cannot be written is a ConfigError that names --plots.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.plots import new_figure, save
from benchmarks.harness.report import Report

SHOWN_DEPTHS = (1, 2, 4, 8)
STYLES = {"greedy": "-", "sampled": "--"}


def print_drafts(console: Console, report: Report) -> None:
    """Drafts by predicted goodput, then what their acceptance by depth is."""
    s = report["settings"]
    title = f"target {s['target']}, times: {s['target_curve']}; {s['prompts']} prompts x {s['tokens']} tokens"
    console.print(title, style="bold", highlight=False)
    rows = {row["draft"]: row for row in report["drafts"]}
    headings = ("tok/s", "x\nplain", "ms a\npass", "of a\nstep", "first\ngreedy", "\nsampled", "tok/step\ngreedy")
    table = _table("by predicted goodput", "draft", *headings)
    for name in report["ranking"]:
        row = rows[name]
        table.add_row(
            name, f"{row['goodput']:.1f}", f"{row['gain']:.2f}", f"{row['ms_per_pass']:.2f}", f"{row['cost_ratio']:.3f}",
            *(f"{row[x]['first']:.2f}" for x in SAMPLINGS), f"{row['greedy']['tokens_per_step']:.2f}",
        )  # fmt: skip
    console.print(table)
    shares_of = (f"{kind if d == 1 else ''}\n{d}" for kind in ("chain", "tree") for d in SHOWN_DEPTHS)
    depths = _table("share of places where so many tokens in a row are right", "draft", "", *shares_of)
    for name in report["ranking"]:
        for sampling in SAMPLINGS:
            both = (rows[name][sampling][f"{kind}_by_depth"] for kind in ("chain", "tree"))
            depths.add_row(name, sampling, *(_at(shares, d) for shares in both for d in SHOWN_DEPTHS))
    console.print(depths)
    if report["ranking"] != report["by_acceptance"]:
        console.print("by acceptance alone the order would be: " + ", ".join(report["by_acceptance"]), highlight=False)


def _at(shares: Sequence[float], depth: int) -> str:
    return f"{shares[depth - 1]:.2f}" if depth <= len(shares) else ""


def print_gain(console: Console, report: Report) -> None:
    """Gain over plain by draft and curve, beside agreement and cost ratio."""
    table = _table("predicted gain over plain", "draft", "curve", "of a\nstep", "first\ngreedy", "\nat 1", "gain\ngreedy", "\nat 1")
    for row in report["points"]:
        table.add_row(
            row["draft"], row["curve"], f"{row['cost_ratio']:.3f}", *(f"{row[s]['first']:.2f}" for s in SAMPLINGS),
            *(f"{row[s]['ratio_to_plain']['value']:.2f}" for s in SAMPLINGS),
        )  # fmt: skip
    console.print(table)


def _table(title: str, name: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column(name, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def plot_gain(report: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Gain against the cost ratio, a line for each draft and sampling, a point for each curve."""
    points = report["points"]
    figure = new_figure(7.0, 4.4)
    axis = figure.subplots()
    for draft in dict.fromkeys(p["draft"] for p in points):
        mine = sorted((p for p in points if p["draft"] == draft), key=lambda p: p["cost_ratio"])
        colour = None
        for sampling, style in STYLES.items():
            values = [p[sampling]["ratio_to_plain"]["value"] for p in mine]
            label = f"{draft}, {sampling} (first choice {mine[0][sampling]['first']:.2f})"
            [line] = axis.plot([p["cost_ratio"] for p in mine], values, style, marker="o", color=colour, label=label)
            colour = line.get_color()
    axis.axhline(1.0, color="#555555", linewidth=1.0)
    axis.set_xscale("log")
    axis.set_xlabel("a draft pass to a plain step of the target")
    axis.set_ylabel("predicted tokens per second, x plain")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return save(figure, folder / "gain.png")
