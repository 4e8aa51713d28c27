"""From samples to the report: one object for `--json`, one table for the terminal.

Promises: `ratios`, `control` and `tokens_per_second` hold a number by `greedy` and `sampled`; what
qualifies a ratio (interval, median over prompts) stands under `intervals` with the same keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.samples import Ratio, Sample, pick, ratio, tokens_per_second, tokens_per_step

Pairs = Mapping[str, tuple[str, str]]
"""Name of a ratio to the two contestants it compares, the one that should be faster first."""

Report = dict[str, Any]


def build_report(samples: Sequence[Sample], contestants: Sequence[str], pairs: Pairs, control: tuple[str, str]) -> Report:
    """`control` is a contestant's second name and its first: the A/A ratio, 1 up to noise."""
    ratios = {name: _ratios(samples, pair) for name, pair in pairs.items()}
    control_ratios = _ratios(samples, control)
    return {
        "tokens_per_second": {c: {s: tokens_per_second(pick(samples, c, s)) for s in SAMPLINGS} for c in contestants},
        "ratios": {name: {s: r.value for s, r in both.items()} for name, both in ratios.items()},
        "control": {s: r.value for s, r in control_ratios.items()},
        "tokens_per_step": {c: {s: tokens_per_step(pick(samples, c, s)) for s in SAMPLINGS} for c in contestants},
        "intervals": {name: {s: _interval(r) for s, r in both.items()} for name, both in {**ratios, "control": control_ratios}.items()},
    }


def _ratios(samples: Sequence[Sample], pair: tuple[str, str]) -> dict[str, Ratio]:
    return {s: ratio(pick(samples, pair[0], s), pick(samples, pair[1], s)) for s in SAMPLINGS}


def _interval(r: Ratio) -> dict[str, float]:
    return {"low": r.low, "high": r.high, "median_of_prompts": r.median_of_prompts}


def print_report(console: Console, report: Report, title: str) -> None:
    """Rates and tokens per step by contestant, then the ratios with their intervals."""
    console.print(title, style="bold", highlight=False)
    rates = Table()
    rates.add_column("contestant", no_wrap=True)
    for heading in ("tokens/s\ngreedy", "\nsampled", "tokens/step\ngreedy", "\nsampled"):
        rates.add_column(heading, justify="right")
    for name, both in report["tokens_per_second"].items():
        steps = report["tokens_per_step"][name]
        rates.add_row(name, *(f"{both[s]:.1f}" for s in SAMPLINGS), *(f"{steps[s]:.2f}" for s in SAMPLINGS))
    console.print(rates)
    ratios = Table(title="ratios of tokens/s, with 95 % intervals over prompts", title_justify="left")
    ratios.add_column("ratio", no_wrap=True)
    for heading in SAMPLINGS:
        ratios.add_column(heading, justify="right")
    for name, both in {**report["ratios"], "control": report["control"]}.items():
        ratios.add_row(name, *(_cell(both[s], report["intervals"][name][s]) for s in SAMPLINGS))
    console.print(ratios)


def _cell(value: float, interval: Mapping[str, float]) -> str:
    return f"{value:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
