"""`drafthouse bench load`: what each policy is worth to many clients at once, at several loads.

Promises: one server serves all; policies differ by the `speculation` field of requests alone. At
each place (workload and load) and in each segment of its trace all policies run the same requests,
one policy after the other in rotating order, and the server is empty before the next begins.
"""

import asyncio
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness.http_stream import connect, only_model
from benchmarks.harness.interleave import order
from benchmarks.harness.overruns import is_void, overruns
from benchmarks.harness.prompts import load_texts
from benchmarks.harness.report import Report
from benchmarks.load.blocks import Block, Place
from benchmarks.load.client import LoadClient, Prompt, connect_async
from benchmarks.load.comparison import point, ratios
from benchmarks.load.server import PacedSetup
from deployments.cli.options import machine
from simulator.arrivals import Arrival, affordable_seconds, poisson, requests_in
from simulator.policies import OFF, POLICIES, WORKLOADS

SATURATION_ROUNDS = 6
"""Requests for each place in flight when off's saturation rate is measured."""


@dataclass(frozen=True)
class LoadOptions:
    """`seconds` of arrivals at each place for each policy, in `segments`; `in_flight` saturates the server; `saturation` (requests
    per second) is measured where None; `budget_s` shortens traces so that all ends within it; `model_alone`: nothing drafts beside
    the draft model, for any policy."""

    policies: tuple[str, ...]
    workloads: tuple[str, ...]
    loads: tuple[float, ...]
    seconds: float
    segments: int
    tokens: tuple[int, int]
    in_flight: int
    seed: int
    prompts: int
    saturation: float | None = None
    prompts_file: pathlib.Path | None = None
    budget_s: float | None = None
    model_alone: bool = False


@dataclass(frozen=True)
class Destination:
    """Either a paced server that is started for the run, or the one at `url`, as it is."""

    paced: PacedSetup | None
    url: str = ""


@dataclass(frozen=True)
class Measured:
    blocks: list[Block]
    saturation: dict[str, float]
    overruns: dict[str, float]


def run_load(options: LoadOptions, target: Destination, trace: pathlib.Path | None, console: Console) -> tuple[Report, list[Block]]:
    """`trace` is the folder for the drafters' acceptance traces. Raises ConfigError naming the option, BenchError when the server fails."""
    state, started = machine(), time.monotonic()
    if options.saturation is not None:  # what is impossible shows before a server is started
        planned(options, dict.fromkeys(options.workloads, options.saturation), math.inf)
    drafter: dict[str, Any] = {"stages": [{"kind": "model"}]} if options.model_alone else {}
    if trace:
        drafter["trace"] = str(trace)
    with serving(target, options, {"drafter": drafter}, console) as (url, model, prompts):
        left = options.budget_s - (time.monotonic() - started) if options.budget_s else math.inf
        measured = asyncio.run(_measure(options, url, model, prompts, left, console))
    return load_report(options, target, measured, state), measured.blocks


def load_report(options: LoadOptions, target: Destination, measured: Measured, state: dict[str, Any]) -> Report:
    groups: dict[tuple[Place, str], list[Block]] = {}
    for block in measured.blocks:
        groups.setdefault((block.place, block.policy), []).append(block)
    return {
        "paced": bool(measured.overruns),
        "points": [point(groups[key]) for key in sorted(groups, key=lambda key: _rank(options, *key))],
        "ratios": ratios(measured.blocks, options.policies),
        "overruns": measured.overruns,
        "void": is_void(measured.overruns),
        "settings": {**settings(options, target), "saturation": measured.saturation, "machine": state},
    }


def _rank(options: LoadOptions, place: Place, policy: str) -> tuple[int, float, int]:
    return options.workloads.index(place.workload), place.load, options.policies.index(policy)


def settings(options: LoadOptions, target: Destination) -> Report:
    prompts_file = str(options.prompts_file or "held-out prompts of the package")
    return {**asdict(options), "prompts_file": prompts_file, **(target.paced.settings() if target.paced else {"url": target.url})}


@contextmanager
def serving(
    target: Destination, options: LoadOptions, more: dict[str, dict[str, Any]], console: Console
) -> Iterator[tuple[str, str, list[Prompt]]]:
    """URL, model name and prompts, while the server runs."""
    if target.paced is None:
        with connect(target.url) as client:
            yield target.url, only_model(client), [*load_texts(options.prompts_file, options.prompts)]
        return
    prompts = target.paced.prompts(options.prompts_file, options.prompts)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="drafthouse-bench-"))
        server = target.paced.server(pathlib.Path(folder), more)
        with console.status("starting Ray and the Serve application"):
            server.start()
        stack.enter_context(closing(server))
        yield server.url, server.config.model, prompts


async def _measure(options: LoadOptions, url: str, model: str, prompts: list[Prompt], left_s: float, console: Console) -> Measured:
    deadline = time.monotonic() + left_s
    async with connect_async(url) as http:
        client = LoadClient(http, model, prompts)
        with console.status("warming up, measuring the saturation rate of off"):
            await warm_up(client, options)
            before = await client.settled_totals()
            saturation = {w: options.saturation or await saturation_rate(client, options, w) for w in options.workloads}
        plan = planned(options, saturation, deadline - time.monotonic())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        blocks: list[Block] = []
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=len(plan))
            for place, segment, policy, trace in plan:
                progress.update(task, description=f"{place.workload} at {place.load:g}: {policy}")
                served = await client.open_loop(trace, WORKLOADS[place.workload], POLICIES[policy])
                blocks.append(Block(place, segment, policy, served))
                progress.advance(task)
        return Measured(blocks, saturation, overruns(await client.settled_totals(), before))


Turn = tuple[Place, int, str, list[Arrival]]


def planned(options: LoadOptions, saturation: dict[str, float], left_s: float) -> list[Turn]:
    """All blocks in order: segment by segment through all places, so that each place is measured all along the run.

    Raises ConfigError naming the options that make a trace empty or too long."""
    places = [Place(w, load, load * saturation[w]) for w in options.workloads for load in options.loads]
    blocks = len(places) * options.segments * len(options.policies)
    tail = options.in_flight / min(saturation.values())  # from a block's last arrival to the next block: the last requests end
    seconds = affordable_seconds(options.seconds / options.segments, left_s, blocks, tail)
    turns: list[Turn] = []
    for segment in range(options.segments):
        for i, place in enumerate(places):
            count = requests_in(place.rate, seconds)
            trace = poisson(place.rate, count, options.prompts, options.tokens, (options.seed, i, segment))
            turns += [(place, segment, policy, trace) for policy in order(options.policies, segment * len(places) + i)]
    return turns


async def warm_up(client: LoadClient, options: LoadOptions) -> None:
    """Each policy at full batch, untimed: kernels, calibration and latency model meet their first steps here."""
    for workload in options.workloads:
        for policy in options.policies:
            await client.closed_loop(_work(options, options.in_flight), options.in_flight, WORKLOADS[workload], POLICIES[policy])


async def saturation_rate(client: LoadClient, options: LoadOptions, workload: str) -> float:
    """Requests per second that off sustains: requests in flight over their mean latency (Little's law), with some of them waiting
    so that no place in the batch stays free."""
    in_flight = options.in_flight + -(-options.in_flight // 4)
    work = _work(options, SATURATION_ROUNDS * in_flight)
    served = await client.closed_loop(work, in_flight, WORKLOADS[workload], POLICIES[OFF])
    return in_flight * len(served) / sum(s.latency_s for s in served)


def _work(options: LoadOptions, count: int) -> Sequence[Arrival]:
    return poisson(1.0, count, options.prompts, options.tokens, (options.seed,))
