"""What of `/v1/cluster` a terminal shows: the pools, their replicas, goodput and totals, for one look or for a live view.

Promises: pure; the same for `drafthouse status` and `drafthouse status --watch`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import httpx
from pydantic import TypeAdapter, ValidationError
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from controller.cluster_goodput import ClusterGoodput
from controller.fingerprints import said_of
from controller.pool_sizes import SizeShown
from deployments.cli.options import fail
from drafthouse.config.faults import describe

ALARM = "bold red"


@dataclass(frozen=True, slots=True)
class Gauges:
    synthetic_acceptance: float | None = None
    kv_slots: float | None = None
    kv_slots_used: float | None = None
    kv_slots_cached: float | None = None
    gate_open: float | None = None

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
    totals: dict[str, float] = field(default_factory=dict)
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
    """What of `/v1/cluster` is shown; totals are by role and counter, names of replicas by role and fingerprint."""

    model: str
    pools: dict[str, list[ShownReplica]]
    totals: dict[str, dict[str, float]]
    sessions: int
    fingerprints: dict[str, dict[str, list[str]]]
    sizes: dict[str, SizeShown]
    goodput: ClusterGoodput
    settings: ShownSettings = ShownSettings()


def read_cluster(answer: httpx.Response) -> ShownCluster:
    """Ends the command where a server of another version says something else."""
    try:
        return TypeAdapter(ShownCluster).validate_json(answer.content)
    except ValidationError as error:
        fail(f"{answer.request.url}: {describe(error)[0]}; --json prints all that it says")


def cluster_view(cluster: ShownCluster, now: float) -> Iterator[RenderableType]:
    """Tables and lines from top to bottom; `now` in Unix seconds."""
    yield _named("model", cluster.model)
    for pool, replicas in cluster.pools.items():
        yield _pool_table(pool, replicas, now)
    rates = [r.gauges.synthetic_acceptance for replicas in cluster.pools.values() for r in replicas]
    drawn = [rate for rate in rates if rate is not None]
    if drawn:
        yield Text(f"SYNTHETIC ACCEPTANCE at rate {min(drawn):g}: texts are not the target's", style=ALARM)
    for gateway in cluster.pools.get("gateway", ()):
        for verifier, reason in gateway.set_aside.items():
            yield Text.assemble((gateway.replica, "bold"), f" has set aside {verifier}: {reason}")
    for pool, totals in cluster.totals.items():
        yield _named(f"{pool}, all together", ", ".join(f"{name} {number:,.10g}" for name, number in totals.items()))
    if verifiers := cluster.fingerprints["verifier"]:
        yield Text(said_of(verifiers), style=ALARM if len(verifiers) > 1 else "")
    yield _named("sessions", str(cluster.sessions))
    for pool, replicas in cluster.pools.items():
        yield from _how_it_runs(pool, replicas)
    for pool, size in cluster.sizes.items():
        bounds = "" if size.most is None else f", between {size.least} and {size.most}"
        yield _named(f"{pool} pool", f"{size.actual} of {size.desired} desired{bounds}; {size.reason}")
    yield from _disagreements(cluster)
    yield from _goodput(cluster.goodput)


def number(value: float | None, form: str = ",.1f") -> str:
    """A dash for what is not known."""
    return "-" if value is None else format(value, form)


def _named(name: str, text: str) -> Text:
    return Text.assemble((name, "bold"), f": {text}")


def _pool_table(pool: str, replicas: list[ShownReplica], now: float) -> Table:
    table = Table(title=f"{pool}: {len(replicas)}", title_justify="left", title_style="bold")
    for column in ("replica", "pid", "address", "up", "load", "capacity", "KV tokens", "draining"):
        table.add_column(column, overflow="fold")
    for r in replicas:
        up = str(timedelta(seconds=max(0, round(now - r.started))))
        table.add_row(Text(r.replica), str(r.pid or "-"), Text(r.address), up, str(r.load), str(r.capacity), r.gauges.kv, str(r.draining))
    return table


def _how_it_runs(pool: str, replicas: list[ShownReplica]) -> Iterator[Text]:
    forwards = {(r.forward, "each row with bits of its own" if r.row_invariant else "not row-invariant") for r in replicas if r.forward}
    if forwards:
        yield _named(f"{pool} pool runs on", "; ".join(", ".join(each) for each in sorted(forwards)))
    for threads in sorted({r.threads for r in replicas if r.threads}):
        yield _named(f"{pool} threads", threads)


def _disagreements(cluster: ShownCluster) -> Iterator[Text]:
    """Settings that differ from args, who does not follow them, and who does not use whom."""
    settings, replicas = cluster.settings, [r for pool in cluster.pools.values() for r in pool]
    if settings.keys:
        yield _named("settings said over args", ", ".join(settings.keys))
    if settings.fault:
        yield Text(f"SETTINGS THAT CANNOT BE USED: {settings.fault}", style=ALARM)
    for r in replicas:
        if r.settings != settings.digest:
            yield Text(f"{r.replica} has other settings, still or since it cannot use these; its log says why", style=ALARM)
        for peer, why in r.incompatible.items():
            yield Text(f"{r.replica} does not use {peer}: {why}", style=ALARM)


def _goodput(g: ClusterGoodput) -> Iterator[Text]:
    lines = {
        "goodput": f"{number(g.committed_per_s)} tokens/s; one more verifier would add {number(g.one_more_verifier_per_s)}, "
        f"one more drafter {number(g.one_more_drafter_per_s)}",
        "drafts a second": f"{number(g.drafted_per_s)} drafted, {number(g.verified_per_s)} verified, "
        f"{number(g.accepted_per_s)} accepted, {number(g.wasted_per_s)} wasted; "
        f"{number(g.refused_sessions_per_s)} sessions refused",
        "measured over predicted": f"tokens {number(g.tokens_over_predicted, '.2f')}, seconds {number(g.seconds_over_predicted, '.2f')}",
        "price of a node": f"{number(g.price_median, '.3f')} tokens ({number(g.price_lowest, '.3f')} to "
        f"{number(g.price_highest, '.3f')}), floor {number(g.price_floor, '.3f')}",
        "in use": f"verifiers {number(g.verifier_utilisation, '.0%')} (between steps {number(g.between_steps_share, '.0%')}), "
        f"drafters {number(g.drafter_utilisation, '.0%')}; {g.queue} requests queue",
    }
    for name, line in lines.items():
        yield _named(name, line)
