"""What choosing tokens costs: time of `choose` over a tree's rows, by sampling parameters and by how far the logits are spread.

Promises: all kinds are timed in turn, round by round, and what the filters keep is compared with what sorting all tokens keeps.
Logits are random and normal; a trained model's rows are like those of the large spread.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.report import Report
from deployments.cli.options import machine
from drafthouse.choose import Rows, choose
from drafthouse.errors import ModelError
from drafthouse.filters import kept
from drafthouse.sampling import SamplingParams

KINDS = {
    "greedy": SamplingParams(0.0),
    "temperature": SamplingParams(0.8),
    "top-k 50": SamplingParams(0.8, top_k=50),
    "top-p 0.95": SamplingParams(0.8, top_p=0.95),
    "min-p 0.05": SamplingParams(0.8, min_p=0.05),
    "top-p 0.95, min-p 0.02": SamplingParams(0.8, top_p=0.95, min_p=0.02),
}
SPREADS = (4.0, 3.0, 1.0)
"""Standard deviations of the logits. At temperature 0.8 top-p 0.95 keeps about 100, 1,000 and 32,000 of 49,152 tokens."""

CHILDREN, DEPTHS = 4, 4
"""The rows are a root and the nodes below it: those of one depth share a position, and so their noise."""


def run_sampling(vocab: int, rounds: int, threads: int) -> Report:
    """Raises ModelError where the filters keep other tokens than a sort would."""
    torch.set_num_threads(threads)
    positions = [0] + [depth for depth in range(1, DEPTHS + 1) for _ in range(CHILDREN)]
    rows = []
    for spread in SPREADS:
        logits = spread * torch.randn(len(positions), vocab, generator=torch.Generator().manual_seed(0))
        times: dict[str, dict[str, list[float]]] = {kind: {"choose": [], "filters": [], "sorted": []} for kind in KINDS}
        for _ in range(rounds):
            for kind, sampling in KINDS.items():
                for name, call in _calls(logits, sampling, positions).items():
                    times[kind][name].append(_milliseconds(call))
        rows += [_row(spread, kind, logits, times[kind]) for kind in KINDS]
    settings = {"vocab": vocab, "rows": len(positions), "rounds": rounds, "threads": threads}
    return {"machine": machine(), "settings": settings, "sampling": rows}


def _calls(logits: torch.Tensor, sampling: SamplingParams, positions: list[int]) -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {"choose": lambda: choose(logits, [Rows(sampling, 7, [100 + at for at in positions])])}
    if sampling.filters:
        scaled, each = logits / sampling.temperature, [sampling] * len(positions)
        calls["filters"] = lambda: kept(scaled, each)
        calls["sorted"] = lambda: kept(scaled, each, head=logits.shape[1])
    return calls


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def _row(spread: float, kind: str, logits: torch.Tensor, times: dict[str, list[float]]) -> dict[str, Any]:
    sampling, tokens = KINDS[kind], None
    if sampling.filters:
        scaled, each = logits / sampling.temperature, [sampling] * len(logits)
        quick, whole = (set(zip(*(t.tolist() for t in kept(scaled, each, head)), strict=True)) for head in (1, logits.shape[1]))
        if quick != whole:
            raise ModelError(f"{kind}: the filters keep other tokens than a sort of all would")
        tokens = len(whole) / len(logits)
    return {"spread": spread, "kind": kind, "kept": tokens} | {
        f"{name}_ms": statistics.median(found) if found else None for name, found in times.items()
    }


def print_sampling(console: Console, report: Report) -> None:
    settings = report["settings"]
    title = f"{settings['rows']} rows of {settings['vocab']:,} logits, ms, median of {settings['rounds']}, {settings['threads']} threads"
    table = Table(title=title, title_justify="left")
    for heading in ("logits spread", "sampling"):
        table.add_column(heading)
    for heading in ("tokens kept", "choose", "its filters", "all sorted"):
        table.add_column(heading, justify="right")
    for row in report["sampling"]:
        shown = ["" if row[name] is None else f"{row[name]:.2f}" for name in ("choose_ms", "filters_ms", "sorted_ms")]
        table.add_row(f"{row['spread']:g}", row["kind"], "" if row["kept"] is None else f"{row['kept']:,.0f}", *shown)
    console.print(table)
