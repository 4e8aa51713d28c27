"""`drafthouse bench load-steps`: the load steps up and down during one run of policy `auto`; does depth follow?

Promises: closed-loop clients, so that each phase has exactly so many requests in flight and a step
is a step; where there are fewer clients in the next phase, those who leave end their request first.
"""

import asyncio
import contextlib
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.overruns import is_void, overruns
from benchmarks.harness.report import Report
from benchmarks.load.client import LoadClient, Prompt, connect_async
from benchmarks.load.response import Phase, Sample, changes, depths
from benchmarks.load.server import PacedSetup
from benchmarks.load.stepped import SteppedClients, Work
from deployments.cli.options import machine
from simulator.policies import WORKLOADS

HEARTBEAT_S = 0.2
WARM_UP_S = 5.0
"""At the first phase's load, before it: untimed."""


@dataclass(frozen=True)
class StepsOptions:
    """Phases of `seconds` with so many requests in flight each."""

    in_flight: tuple[int, ...]
    seconds: float
    workload: str
    tokens: tuple[int, int]
    prompts: int
    seed: int


def run_steps(options: StepsOptions, setup: PacedSetup, console: Console) -> Report:
    """Raises ConfigError naming the option, BenchError when the server fails."""
    state, prompts = machine(), setup.prompts(None, options.prompts)
    with tempfile.TemporaryDirectory(prefix="drafthouse-bench-") as folder:
        server = setup.server(Path(folder), {"controller": {"heartbeat_s": HEARTBEAT_S}})
        with console.status("starting Ray and the Serve application"):
            server.start()
        with contextlib.closing(server), console.status("stepping the load"):
            samples, phases, shares = asyncio.run(_measure(options, server.url, prompts))
    return {
        "paced": True, **steps_report(samples, phases), "overruns": shares, "void": is_void(shares),
        "settings": {**setup.settings(), **asdict(options), "machine": state},
    }  # fmt: skip


def steps_report(samples: list[Sample], phases: list[Phase]) -> Report:
    """NaN is not JSON: null where there is no number."""
    at, signals = [s.at_s for s in samples], {"depth": depths(samples).tolist(), "price": [s.price for s in samples]}
    series = [
        {"at_s": s.at_s, "running": s.running, "price": s.price, "depth": _finite(depth)}
        for s, depth in zip(samples, signals["depth"], strict=True)
    ]
    followed = {
        name: [{key: _finite(value) for key, value in asdict(change).items()} for change in changes(at, signal, phases)]
        for name, signal in signals.items()
    }
    return {"phases": [asdict(phase) for phase in phases], "changes": followed, "series": series}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


async def _measure(options: StepsOptions, url: str, prompts: list[Prompt]) -> tuple[list[Sample], list[Phase], dict[str, float]]:
    work = Work(options.prompts, options.tokens, WORKLOADS[options.workload], options.seed)
    samples: list[Sample] = []
    async with connect_async(url) as http:
        client = LoadClient(http, "paced", prompts)
        clients = SteppedClients(client, work, lambda at_s, cluster: samples.append(sampled(at_s, cluster)))
        await clients.phase(options.in_flight[0], WARM_UP_S)
        before = await client.settled_totals()
        sampling = asyncio.ensure_future(clients.sample())
        try:
            phases = [await clients.phase(count, options.seconds) for count in options.in_flight]
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, clients.close(), return_exceptions=True)
        return samples, phases, overruns(await client.settled_totals(), before)


def sampled(at_s: float, cluster: dict[str, Any]) -> Sample:
    """Sums over the verifiers, and their mean price."""
    verifiers = cluster["pools"]["verifier"]
    totals = {name: sum(v["totals"].get(name, 0.0) for v in verifiers) for name in ("verified", "accepted", "committed")}
    price = sum(v["gauges"].get("price", 0.0) for v in verifiers) / max(1, len(verifiers))
    return Sample(at_s, sum(v["gauges"].get("running", 0.0) for v in verifiers), price, **totals)


def print_steps(console: Console, report: Report) -> None:
    settings = report["settings"]
    table = Table(title=f"load steps, paced, policy auto, {settings['workload']}", title_justify="left")
    for heading in ("signal", "at, s", "in flight", "before", "after", "followed, s", "went back"):
        table.add_column(heading, justify="right")
    for name, changed in report["changes"].items():
        for change, phase in zip(changed, report["phases"][1:], strict=True):
            cells = ("-" if change[key] is None else f"{change[key]:.2f}" for key in ("before", "after", "settle_s"))
            table.add_row(name, f"{change['at_s']:.0f}", str(phase["in_flight"]), *cells, str(change["returns"]))
    console.print(table)
