"""`drafthouse bench off-cost`: what speculation costs where it is off.

Promises: two servers that differ only in `drafter.replicas` (1 and 0) run side by side, one at work
at a time, on the same requests with speculation off; the arms `full`, `full again` (the A/A control)
and `alone` take turns in rotating order. What the full system's verifier did for drafting meanwhile
is counted: draft messages and token trees per step.
"""

import asyncio
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.harness.http_stream import BenchError
from benchmarks.harness.interleave import order
from benchmarks.harness.overruns import Totals, is_void, overruns
from benchmarks.harness.report import Report
from benchmarks.load.client import LoadClient, Prompt, Served, connect_async
from benchmarks.load.server import PacedSetup
from benchmarks.load.statistics import drawn, estimate
from deployments.cli.options import machine
from simulator.arrivals import Arrival, poisson
from simulator.policies import OFF, POLICIES, WORKLOADS

FULL, FULL_AGAIN, ALONE = "full", "full again", "alone"
ARMS = (FULL, FULL_AGAIN, ALONE)
DRAFTING = ("draft_messages", "trees")
"""Totals of a verifier that must not grow while speculation is off."""


@dataclass(frozen=True)
class OffCostOptions:
    """`requests` in each block, `in_flight` at a time; `rounds` blocks for each arm and workload."""

    rounds: int
    requests: int
    in_flight: int
    tokens: tuple[int, int]
    prompts: int
    seed: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens and seconds of one block."""

    arm: str
    tokens: int
    seconds: float


def run_off_cost(options: OffCostOptions, setup: PacedSetup, console: Console) -> Report:
    """Raises ConfigError naming the option, BenchError when a server fails."""
    state, prompts = machine(), setup.prompts(None, options.prompts)
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drafthouse-bench-")))
        urls = {}
        for name, replicas in ((FULL, 1), (ALONE, 0)):
            server = setup.server(folder, {"drafter": {"replicas": replicas}})
            with console.status(f"starting the {name} system"):
                server.start()
            stack.enter_context(closing(server))
            urls[name] = server.url
        rates, steps, shares = asyncio.run(_measure(options, urls, prompts, console))
    return {
        "paced": True, **off_cost_report(rates), "per_off_step": steps, "overruns": shares, "void": is_void(shares),
        "settings": {**setup.settings(), "rounds": options.rounds, "requests": options.requests, "in_flight": options.in_flight,
                     "tokens": options.tokens, "machine": state},
    }  # fmt: skip


async def _measure(
    options: OffCostOptions, urls: Mapping[str, str], prompts: list[Prompt], console: Console
) -> tuple[list[Rate], dict[str, float], dict[str, float]]:  # fmt: skip
    async with connect_async(urls[FULL]) as full_http, connect_async(urls[ALONE]) as alone_http:
        full, alone = LoadClient(full_http, "paced", prompts), LoadClient(alone_http, "paced", prompts)
        clients = {FULL: full, FULL_AGAIN: full, ALONE: alone}
        with console.status("warming up"):
            for client in (full, alone):
                for temperature in WORKLOADS.values():
                    await _block(client, options, temperature, 0)
        before, alone_before = await full.settled_totals(), await alone.settled_totals()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        rates: list[Rate] = []
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=options.rounds * len(WORKLOADS) * len(ARMS))
            for turn in range(options.rounds * len(WORKLOADS)):
                temperature = list(WORKLOADS.values())[turn % len(WORKLOADS)]
                for arm in order(ARMS, turn):
                    served = await _block(clients[arm], options, temperature, turn)
                    seconds = max(s.at_s + s.latency_s for s in served)
                    rates.append(Rate(arm, sum(s.completion.tokens for s in served), seconds))
                    progress.advance(task)
        after, alone_after = await full.settled_totals(), await alone.settled_totals()
        shares = {FULL: _late(after, before), ALONE: _late(alone_after, alone_before)}
        return rates, per_step(after["verifier"], before["verifier"]), shares


async def _block(client: LoadClient, options: OffCostOptions, temperature: float, turn: int) -> list[Served]:
    work: list[Arrival] = poisson(1.0, options.requests, options.prompts, options.tokens, (options.seed, turn))
    return await client.closed_loop(work, options.in_flight, temperature, POLICIES[OFF])


def _late(after: Totals, before: Totals) -> float:
    return overruns(after, before).get("verifier", 0.0)


def per_step(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Draft messages and trees for each of the verifier's steps between two totals. Raises BenchError where it does not count them."""
    missing = [name for name in (*DRAFTING, "steps") if name not in after]
    if missing:
        raise BenchError(f"/v1/cluster: the verifier's totals have no {', '.join(missing)}")
    steps = after["steps"] - before["steps"]
    return {"steps": steps, **{name: (after[name] - before[name]) / max(1.0, steps) for name in DRAFTING}}


def off_cost_report(rates: Sequence[Rate]) -> Report:
    """Tokens per second by arm, the ratio of full to alone, and the control: full again to full. Blocks are paired by turn."""
    rows = {arm: np.array([[r.tokens, r.seconds] for r in rates if r.arm == arm]) for arm in ARMS}
    draws = drawn([len(rows[FULL])])

    def ratio(ours: str, base: str) -> dict[str, float]:
        value = _rate(rows[ours].sum(0)) / _rate(rows[base].sum(0))
        return estimate(float(value), _rate(rows[ours][draws].sum(1)) / _rate(rows[base][draws].sum(1))).as_json()

    return {
        "tokens_per_second": {arm: float(_rate(rows[arm].sum(0))) for arm in ARMS},
        "ratios": {"full_vs_alone": ratio(FULL, ALONE), "control": ratio(FULL_AGAIN, FULL)},
    }


def _rate(rows: np.ndarray) -> np.ndarray:
    """Tokens per second of `[..., 2]`: tokens and seconds."""
    result: np.ndarray = rows[..., 0] / rows[..., 1]
    return result


def print_off_cost(console: Console, report: Report) -> None:
    table = Table(title="speculation off, paced", title_justify="left")
    table.add_column("system", no_wrap=True)
    table.add_column("tokens/s", justify="right")
    for arm, rate in report["tokens_per_second"].items():
        table.add_row(arm, f"{rate:.1f}")
    console.print(table)
    for name, r in report["ratios"].items():
        console.print(f"{name.replace('_', ' ')}: {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]", highlight=False)
    steps = report["per_off_step"]
    counts = ", ".join(f"{steps[name]:g} {name.replace('_', ' ')}" for name in DRAFTING)
    console.print(f"per off step of the full system: {counts} ({steps['steps']:.0f} steps)", highlight=False)
