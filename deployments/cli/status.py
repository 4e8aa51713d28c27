"""`drafthouse status`: the pools of a running server, their replicas, goodput and totals."""

import json
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

import httpx
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from controller.cluster_goodput import ClusterGoodput
from controller.fingerprints import said_of
from controller.pool_sizes import SizeShown
from deployments.cli.http_client import DEFAULT_URL, Url, check, server
from deployments.cli.options import fail
from drafthouse.config.faults import describe

ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Gauges:
    synthetic_acceptance: float | None = None
    kv_slots: float | None = None
    kv_slots_used: float | None = None
    kv_slots_cached: float | None = None

    @property
    def kv(self) -> str:
        """Tokens; what only the prefix cache holds is as good as free."""
        if self.kv_slots is None or self.kv_slots_used is None:
            return "-"
        cached = f", {self.kv_slots_cached:,.0f} cached" if self.kv_slots_cached else ""
        return f"{self.kv_slots_used:,.0f} of {self.kv_slots:,.0f}{cached}"


@dataclass(frozen=True, slots=True)
class ShownReplica:
    replica: str
    load: int
    capacity: int
    draining: bool
    forward: str
    row_invariant: bool
    gauges: Gauges
    started: float
    incompatible: dict[str, str] = field(default_factory=dict)
    settings: str = ""
    pid: int | None = None  # told to operators' keys alone, like the address
    address: str = "-"
    set_aside: dict[str, str] = field(default_factory=dict)  # of gateways
    threads: str = ""


@dataclass(frozen=True, slots=True)
class ShownSettings:
    digest: str = ""
    keys: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ShownCluster:
    """What of `/v1/cluster` is printed; totals are by role and counter, names of replicas by role and fingerprint."""

    model: str
    pools: dict[str, list[ShownReplica]]
    totals: dict[str, dict[str, float]]
    sessions: int
    fingerprints: dict[str, dict[str, list[str]]]
    sizes: dict[str, SizeShown]
    goodput: ClusterGoodput
    settings: ShownSettings = ShownSettings()


def status(
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's JSON as it is.")] = False,
) -> None:
    """Show the pools, their replicas, and totals."""
    with server(url, ANSWER_TIMEOUT_S) as client:
        answer = client.get("/v1/cluster")
        check(answer)
    if as_json:
        sys.stdout.write(json.dumps(answer.json(), indent=2) + "\n")
    else:
        _print_cluster(_cluster(answer))


def _cluster(answer: httpx.Response) -> ShownCluster:
    """Ends the command where a server of another version says something else."""
    try:
        return TypeAdapter(ShownCluster).validate_json(answer.content)
    except ValidationError as error:
        fail(f"{answer.request.url}: {describe(error)[0]}; --json prints all that it says")


def _print_cluster(cluster: ShownCluster) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]model[/]: {cluster.model}")
    for pool, replicas in cluster.pools.items():
        table = Table(title=f"{pool}: {len(replicas)}", title_justify="left", title_style="bold")
        for column in ("replica", "pid", "address", "up", "load", "capacity", "KV tokens", "draining"):
            table.add_column(column, overflow="fold")
        for r in replicas:
            up = str(timedelta(seconds=max(0, round(time.time() - r.started))))
            table.add_row(r.replica, str(r.pid or "-"), r.address, up, str(r.load), str(r.capacity), r.gauges.kv, str(r.draining))
        console.print(table)
    rates = [r.gauges.synthetic_acceptance for replicas in cluster.pools.values() for r in replicas]
    drawn = [rate for rate in rates if rate is not None]
    if drawn:
        console.print(f"SYNTHETIC ACCEPTANCE at rate {min(drawn):g}: texts are not the target's", style="bold red")
    for gateway in cluster.pools.get("gateway", ()):
        for verifier, reason in gateway.set_aside.items():
            console.print(f"[bold]{gateway.replica}[/] has set aside {verifier}: {reason}")
    for pool, totals in cluster.totals.items():
        counters = (f"{name} {number:,.10g}" for name, number in totals.items())
        console.print(f"[bold]{pool}, all together[/]: {', '.join(counters)}")
    verifiers = cluster.fingerprints["verifier"]
    if verifiers:
        console.print(said_of(verifiers), style="bold red" if len(verifiers) > 1 else None)
    console.print(f"[bold]sessions[/]: {cluster.sessions}")
    for pool, replicas in cluster.pools.items():
        forwards = {(r.forward, "each row with bits of its own" if r.row_invariant else "not row-invariant") for r in replicas if r.forward}
        if forwards:
            console.print(f"[bold]{pool} pool runs on[/]: {'; '.join(', '.join(each) for each in sorted(forwards))}")
        for threads in sorted({r.threads for r in replicas if r.threads}):
            console.print(f"[bold]{pool} threads[/]: {threads}")
    for pool, size in cluster.sizes.items():
        bounds = "" if size.most is None else f", between {size.least} and {size.most}"
        console.print(f"[bold]{pool} pool[/]: {size.actual} of {size.desired} desired{bounds}; {size.reason}")
    _print_disagreements(console, cluster)
    _print_goodput(console, cluster.goodput)


def _print_disagreements(console: Console, cluster: ShownCluster) -> None:
    """Settings that differ from args, who does not follow them, and who does not use whom."""
    settings, replicas = cluster.settings, [r for pool in cluster.pools.values() for r in pool]
    if settings.keys:
        console.print(f"[bold]settings said over args[/]: {', '.join(settings.keys)}")
    if settings.fault:
        console.print(f"SETTINGS THAT CANNOT BE USED: {settings.fault}", style="bold red", markup=False)
    for r in replicas:
        if r.settings != settings.digest:
            console.print(
                f"{r.replica} has other settings, still or since it cannot use these; its log says why", style="bold red", markup=False
            )
        for peer, why in r.incompatible.items():
            console.print(f"{r.replica} does not use {peer}: {why}", style="bold red", markup=False)


def _number(value: float | None, form: str = ",.1f") -> str:
    return "-" if value is None else format(value, form)


def _print_goodput(console: Console, g: ClusterGoodput) -> None:
    lines = {
        "goodput": f"{_number(g.committed_per_s)} tokens/s; one more verifier would add {_number(g.one_more_verifier_per_s)}, "
        f"one more drafter {_number(g.one_more_drafter_per_s)}",
        "drafts a second": f"{_number(g.drafted_per_s)} drafted, {_number(g.verified_per_s)} verified, "
        f"{_number(g.accepted_per_s)} accepted, {_number(g.wasted_per_s)} wasted; "
        f"{_number(g.refused_sessions_per_s)} sessions refused",
        "measured over predicted": f"tokens {_number(g.tokens_over_predicted, '.2f')}, seconds {_number(g.seconds_over_predicted, '.2f')}",
        "price of a node": f"{_number(g.price_median, '.3f')} tokens ({_number(g.price_lowest, '.3f')} to "
        f"{_number(g.price_highest, '.3f')}), floor {_number(g.price_floor, '.3f')}",
        "in use": f"verifiers {_number(g.verifier_utilisation, '.0%')} (between steps {_number(g.between_steps_share, '.0%')}), "
        f"drafters {_number(g.drafter_utilisation, '.0%')}; {g.queue} requests queue",
    }
    for name, line in lines.items():
        console.print(f"[bold]{name}[/]: {line}")
