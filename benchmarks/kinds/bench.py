"""`drafthouse bench kinds`: what a target's drafts bring on six kinds of prompts: chat, code, summary, edit, translation, JSON.

Promises: `plain`, `lookup`, each draft, `merged` (a draft's tree and lookup's beside the target) and `plain` again, the A/A control, take
turns on each prompt with one seed, one stream, greedy and at temperature 0.7. Texts end where the model ends them, and each is
compared with plain's: on the native decoder all are equal bit for bit. It stops between prompts when its time is up.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.ablation.bench import check_length
from benchmarks.ablation.schedule import Schedule
from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.report import Report
from benchmarks.kinds.configurations import CONTROL, PLAIN, Contest
from benchmarks.kinds.figures import ALL, LEAST_RATIO, kinds_report
from benchmarks.kinds.prompts import load_prompts
from deployments.cli.options import machine
from deployments.gateway.model_metadata import load_metadata
from deployments.gateway.text_codec import load_codec
from drafthouse.config.serving import ModelConfig
from drafthouse.sampling import SamplingParams

TEMPERATURE = 0.7
SAMPLING = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=TEMPERATURE)}


@dataclass(frozen=True)
class KindsOptions:
    """`prompts`: how many are run, from the first on; None: all. `budget_s`: seconds from the start in which the run should end."""

    contest: Contest
    tokens: int
    rounds: int
    http: bool
    budget_s: float
    prompts: int | None = None


def run_kinds(options: KindsOptions, console: Console) -> Report:
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded, BenchError when a server fails."""
    deadline, state, contest = time.monotonic() + options.budget_s, machine(), options.contest
    target = ModelConfig(path=contest.target, dtype=contest.dtype)
    codec = load_codec(target)
    metadata = load_metadata(target, codec.stop_token)
    prompts = load_prompts(codec)[: options.prompts]
    check_length([prompt.ids for prompt in prompts], options.tokens, [("--target", contest.target, metadata.context_tokens)])
    schedule = Schedule(contest.names, len(prompts), options.rounds, deadline)
    if options.http:
        from benchmarks.kinds import served

        written = served.measure(contest, prompts, options.tokens, SAMPLING, schedule, console)
    else:
        from benchmarks.kinds import one_process

        written = one_process.measure(contest, prompts, metadata.stop_tokens, options.tokens, SAMPLING, schedule, console)
    settings = {
        **asdict(options), "machine": state, "temperature": TEMPERATURE, "prompts_run": schedule.prompts_run,
        "ratio": "total tokens/s over prompts and rounds, prompts included; 95 % interval: bootstrap over prompts",
    }  # fmt: skip
    report = kinds_report(written, contest.names, [prompt.kind for prompt in prompts], overlaps=options.http)
    return {**report, "settings": settings}


def print_kinds(console: Console, report: Report) -> None:
    s = report["settings"]
    contest = s["contest"]
    where = "over HTTP" if s["http"] else "in one process"
    console.print(
        f"target {contest['target']}, {contest['dtype']}, {contest['threads']} threads, {where}; {s['prompts_run']} prompts x up to"
        f" {s['tokens']} tokens", style="bold", highlight=False,
    )  # fmt: skip
    for sampling in SAMPLINGS:
        _print_all(console, report, sampling)
        _print_by_kind(console, report, sampling)
    _print_notes(console, report)


def _named(sampling: str) -> str:
    return "greedy" if sampling == "greedy" else f"temperature {TEMPERATURE:g}"


def _print_all(console: Console, report: Report, sampling: str) -> None:
    headings = ("tok/s", "x\nplain", "95 %", "de-\ncoding", "tok\n/step", "first\nright", "tar-\nget", "draft", "py-\nthon", "wait")
    table = _table(f"{_named(sampling)}, all prompts; shares of time", "", *headings)
    for name, both in report["kinds"][ALL].items():
        f = both[sampling]
        found, of_time, decoding = f["ratio_to_plain"], f["share_of_time"], f["decoding_ratio_to_plain"]
        table.add_row(
            name, f"{f['tokens_per_second']:.1f}", f"{found['value']:.2f}", f"[{found['low']:.2f}, {found['high']:.2f}]",
            "" if decoding is None else f"{decoding['value']:.2f}", f"{f['tokens_per_step']:.2f}",
            "" if f["agreement"] is None else f"{f['agreement']:.2f}",
            *(f"{of_time[part]:.0%}" for part in ("target", "draft", "python", "waiting")),
        )  # fmt: skip
    console.print(table)


def _print_by_kind(console: Console, report: Report, sampling: str) -> None:
    names = [name for name in report["kinds"][ALL] if name != PLAIN]
    table = _table(f"{_named(sampling)}, by kind: x plain; first choices right", "", *names)
    for kind, of_kind in report["kinds"].items():
        if kind != ALL:
            table.add_row(kind, *(_cell(of_kind[name][sampling]) for name in names))
    console.print(table)


def _cell(figures: dict[str, Any]) -> str:
    found, right = figures["ratio_to_plain"], figures["agreement"]
    return f"{found['value']:.2f}{'' if right is None else f'; {right:.2f}'}\n[{found['low']:.2f}, {found['high']:.2f}]"


def _print_notes(console: Console, report: Report) -> None:
    for name, share in report["kept_when_sampled"].items():
        console.print(f"{name}: at temperature {TEMPERATURE:g} {share:.2f} of the greedy speed-up", highlight=False)
    for each in report["below_plain"]:
        console.print(
            f"[bold]below {LEAST_RATIO:g} x plain[/]: {each['configuration']}, {each['kind']}, {_named(each['sampling'])}:"
            f" {each['value']:.2f} \\[{each['low']:.2f}, {each['high']:.2f}]", highlight=False,
        )  # fmt: skip
    if report["repeated_8_grams"]:
        shares = ", ".join(f"{_named(s)} {share:.0%}" for s, share in report["repeated_8_grams"].items())
        console.print(f"8-grams of the texts that had occurred before in them: {shares}", highlight=False)
    texts = report["texts"]
    different = ", ".join(f"{name} {count}" for name, count in texts["different"].items() if count)
    console.print(
        f"all {texts['compared']} texts equal plain's" if texts["all_equal"] else f"[bold]texts that differ from plain's: {different}[/]",
        highlight=False,
    )
    control = report["kinds"][ALL][CONTROL]
    found = ", ".join(f"{_named(s)} {control[s]['ratio_to_plain']['value']:.2f}" for s in SAMPLINGS)
    console.print(f"control (plain again to plain): {found}", highlight=False)


def _table(title: str, name: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(name, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
