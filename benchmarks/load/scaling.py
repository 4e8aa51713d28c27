"""`drafthouse bench scaling`: the load steps up and down, and each pool follows by itself.

Promises: a real Serve application on paced devices that starts with one replica of each pool; no request may fail, also while replicas
leave; what is reported as grown and shrunk was seen in the replicas that reported, not in what was desired.
"""

import asyncio
import contextlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.overruns import is_void, overruns
from benchmarks.harness.paced_server import Sections
from benchmarks.harness.report import Report
from benchmarks.load.client import LoadClient, Prompt, connect_async
from benchmarks.load.response import Phase
from benchmarks.load.server import PacedSetup
from benchmarks.load.stepped import SteppedClients, Work
from deployments.cli.options import machine
from simulator.policies import WORKLOADS

HEARTBEAT_S = 0.2

SMALL_CPUS = 0.01
"""What Ray reserves for a replica: paced ones sleep most of the time, and share the cores."""

POOLS = ("verifier", "drafter")


@dataclass(frozen=True)
class ScalingOptions:
    """Phases of `seconds` with so many requests in flight each; pools of one (drafters: none) up to the most given.

    `sessions`: places of one drafter. With fewer of them than a verifier has places, drafters are short first.
    """

    in_flight: tuple[int, ...]
    seconds: float
    most_verifiers: int
    most_drafters: int
    sessions: int
    workload: str
    tokens: tuple[int, int]
    prompts: int
    seed: int

    def sections(self) -> Sections:
        """Of the server's configuration. Delays are short, so that minutes show what takes an hour elsewhere."""
        delays = {"up_delay_s": 2.0, "down_delay_s": 4.0, "cool_down_s": 4.0}
        return {
            "controller": {"heartbeat_s": HEARTBEAT_S},
            "gateway": {"num_cpus": SMALL_CPUS},
            "verifier": {"num_cpus": SMALL_CPUS},
            "drafter": {"num_cpus": SMALL_CPUS, "max_sessions": self.sessions},
            "autoscaling": {
                "verifier": {"min": 1, "max": self.most_verifiers, **delays},
                "drafter": {"min": 0, "max": self.most_drafters, "min_gain_share": 0.2, **delays},
            },
        }


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the pools at `at_s`, with the reason that the controller gives; goodput in committed tokens per second."""

    at_s: float
    actual: dict[str, int]
    desired: dict[str, int]
    reason: dict[str, str]
    goodput: float
    queue: int


def sizes_of(at_s: float, cluster: dict[str, Any]) -> Sizes:
    sizes = {name: {pool: cluster["sizes"][pool][name] for pool in POOLS} for name in ("actual", "desired", "reason")}
    return Sizes(at_s, **sizes, goodput=cluster["goodput"]["committed_per_s"], queue=cluster["goodput"]["queue"])


def run_scaling(options: ScalingOptions, setup: PacedSetup, console: Console) -> Report:
    """Raises ConfigError naming the option, BenchError when the server or a request fails."""
    state, prompts = machine(), setup.prompts(None, options.prompts)
    with tempfile.TemporaryDirectory(prefix="drafthouse-bench-") as folder:
        server = setup.server(Path(folder), options.sections())
        with console.status("starting Ray and the Serve application"):
            server.start()
        with contextlib.closing(server), console.status("stepping the load"):
            samples, phases, finished, shares = asyncio.run(_measure(options, server.url, prompts))
    return {
        "paced": True, **scaling_report(samples, phases), "requests": finished, "failed": 0, "overruns": shares, "void": is_void(shares),
        "settings": {**setup.settings(), **asdict(options), "sections": options.sections(), "machine": state},
    }  # fmt: skip


async def _measure(options: ScalingOptions, url: str, prompts: list[Prompt]) -> tuple[list[Sizes], list[Phase], int, dict[str, float]]:
    work = Work(options.prompts, options.tokens, WORKLOADS[options.workload], options.seed)
    samples: list[Sizes] = []
    async with connect_async(url) as http:
        client = LoadClient(http, "paced", prompts)
        clients = SteppedClients(client, work, lambda at_s, cluster: samples.append(sizes_of(at_s, cluster)))
        before = await client.settled_totals()
        sampling = asyncio.ensure_future(clients.sample())
        try:
            phases = [await clients.phase(count, options.seconds) for count in options.in_flight]
            await clients.leave()
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, clients.close(), return_exceptions=True)
        return samples, phases, clients.finished, overruns(await client.settled_totals(), before)


def scaling_report(samples: list[Sizes], phases: list[Phase]) -> Report:
    """Pure. `changes`: when replicas came or went, whether that was asked for, and the last reason for it; `scaled`: by pool,
    whether it did both ways when asked."""
    changes = [change for pool in POOLS for change in _changes(samples, pool)]
    return {
        "phases": [asdict(phase) for phase in phases],
        "series": [asdict(sample) for sample in samples],
        "changes": sorted(changes, key=lambda change: change["at_s"]),
        "scaled": {
            pool: {
                way: any(c["asked"] and c["pool"] == pool and sign * (c["to"] - c["from"]) > 0 for c in changes)
                for way, sign in (("up", 1), ("down", -1))
            }
            for pool in POOLS
        },
    }


def _changes(samples: list[Sizes], pool: str) -> list[dict[str, Any]]:
    """The reason is that of the sample in which the desired size changed, before replicas followed. A change the other way, as by a
    crash and its repair, was not asked for."""
    found, reason = [], ""
    asked = samples[0].desired[pool] - samples[0].actual[pool] if samples else 0
    for before, after in zip(samples, samples[1:], strict=False):
        earlier = asked
        if after.desired[pool] != before.desired[pool]:
            reason, asked = after.reason[pool], after.desired[pool] - before.desired[pool]
        if after.actual[pool] != before.actual[pool]:
            came = after.actual[pool] - before.actual[pool]
            was_asked = asked * came > 0 or earlier * came > 0
            found.append(
                {
                    "at_s": after.at_s, "pool": pool, "from": before.actual[pool], "to": after.actual[pool], "asked": was_asked,
                    "reason": reason if was_asked else "not asked for",
                }
            )  # fmt: skip
    return found


def scaled_both_ways(report: Report) -> bool:
    return all(all(ways.values()) for ways in report["scaled"].values())


def print_scaling(console: Console, report: Report) -> None:
    table = Table(title=f"replicas that came and went, paced, {report['requests']} requests, none failed", title_justify="left")
    for heading in ("at, s", "in flight", "pool", "replicas", "because"):
        table.add_column(heading, justify="right" if heading == "at, s" else "left")
    for change in report["changes"]:
        phase = [p for p in report["phases"] if p["start_s"] <= change["at_s"]][-1:]
        in_flight = str(phase[0]["in_flight"]) if phase else "-"
        table.add_row(f"{change['at_s']:.1f}", in_flight, change["pool"], f"{change['from']} to {change['to']}", change["reason"])
    console.print(table)
    for pool, ways in report["scaled"].items():
        missing = [way for way, seen in ways.items() if not seen]
        if missing:
            console.print(
                f"[bold red]{pool} pool[/]: did not scale {' and '.join(missing)}; longer --seconds give it time", highlight=False
            )
