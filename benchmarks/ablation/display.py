"""The ablation's table and plot.

Promises: drawn without a display; a folder that cannot be written is a ConfigError that names --plots.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.ablation.configurations import CONTROL, PLAIN, TREE
from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.overruns import print_overruns
from benchmarks.harness.plots import new_figure, save
from benchmarks.harness.report import Report

COLOURS = {"greedy": "#0b62a4", "sampled": "#d1751f"}
HEADINGS = ("tok/s", "x\nplain", "95 %", "tok\n/step", "draft", "wait", "hid-\nden", "pass\n/tok")


def names_of(report: Report) -> list[str]:
    """Without the control, which is shown as a ratio."""
    return [name for name in report["figures"] if name != CONTROL]


def title(report: Report) -> str:
    s = report["settings"]
    if s["paced"]:
        how = f"paced: {s['target_curve']} with {s['draft_curve']}, time stretched by {s['time_scale']:g}; one stream, full stack"
    else:
        how = f"target {s['target']}, {s['dtype']}, {s['threads']} threads; one stream, one process"
    return f"{how}; {s['workload']}, {s['prompts_run']} prompts x up to {s['tokens']} tokens"


def print_ablation(console: Console, report: Report) -> None:
    console.print(title(report), style="bold", highlight=False)
    for sampling in SAMPLINGS:
        _print_table(console, report, sampling)
    if report["settings"]["workload"] == "long":
        _print_draft_costs(console, report)
    control = ", ".join(f"{s} {c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for s, c in report["control"].items())
    console.print(f"control (tree again to tree): {control}", highlight=False)
    if "overruns" in report:
        print_overruns(console, report)


def _print_table(console: Console, report: Report, sampling: str) -> None:
    table = _table(sampling, *HEADINGS, *(["kept"] if sampling == "sampled" else []))
    for name in names_of(report):
        figures = report["figures"][name][sampling]
        table.add_row(name, *_row(figures), *([f"{figures['kept']:.2f}"] if sampling == "sampled" else []))
    console.print(table)


def _print_draft_costs(console: Console, report: Report) -> None:
    """What a cut draft KV loses in acceptance and saves in time."""
    table = _table("the draft model's first choice right, and to that of tree; ms a pass", "first\ngreedy", "to\ntree", "ms\n/pass",
                   "first\nsampled", "to\ntree", "ms\n/pass")  # fmt: skip
    for name in names_of(report):
        if report["figures"][name][SAMPLINGS[0]]["first_choice_right"] is None:
            continue
        row: list[str] = []
        for sampling in SAMPLINGS:
            figures, tree = (report["figures"][each][sampling] for each in (name, TREE))
            first, whole = figures["first_choice_right"], tree["first_choice_right"]
            row += [f"{first:.3f}", f"{first / whole:.2f}", f"{figures['ms_per_draft_pass']:.2f}"]
        table.add_row(name, *row)
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("configuration", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _row(figures: Mapping[str, Any]) -> list[str]:
    r, hidden = figures["ratio_to_plain"], figures["draft_time_hidden"]
    return [
        f"{figures['tokens_per_second']:.1f}", f"{r['value']:.2f}", f"{r['low']:.2f}-{r['high']:.2f}", f"{figures['tokens_per_step']:.2f}",
        f"{figures['draft_share_of_time']:.0%}", f"{figures['wait_share_of_time']:.0%}", "" if hidden is None else f"{hidden:.0%}",
        f"{figures['draft_passes_per_token']:.2f}",
    ]  # fmt: skip


def plot_ablation(report: Report, folder: pathlib.Path) -> pathlib.Path:
    """Ratio to plain by configuration, with its interval, for both samplings side by side."""
    names = [name for name in names_of(report) if name != PLAIN]
    figure = new_figure(1.6 + 0.95 * len(names), 4.2)
    axis = figure.subplots()
    for side, sampling in enumerate(SAMPLINGS):
        ratios = [report["figures"][name][sampling]["ratio_to_plain"] for name in names]
        at = [i + 0.38 * (side - 0.5) for i in range(len(names))]
        below, above = ([abs(r["value"] - r[end]) for r in ratios] for end in ("low", "high"))
        axis.bar(at, [r["value"] for r in ratios], width=0.36, yerr=[below, above], capsize=2, color=COLOURS[sampling], label=sampling)
    axis.axhline(1.0, color="#555555", linewidth=1.0)
    axis.set_xticks(range(len(names)), names, rotation=20)
    axis.set_ylabel("tokens per second, x plain")
    axis.set_title(title(report).replace("; one stream", "\none stream"), fontsize=8)
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=8)
    return save(figure, folder / f"ablation-{report['settings']['workload']}.png")
