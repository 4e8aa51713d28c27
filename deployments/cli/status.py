"""`drafthouse status`: the pools of a running server, their replicas, goodput and totals."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.cli.http_client import DEFAULT_URL, Url, check, server
from drafthouse.wire.membership import SYNTHETIC_GAUGE

REPLICA_COLUMNS = ("replica", "pid", "address", "load", "capacity", "draining")
ANSWER_TIMEOUT_S = 10.0


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
        _print_cluster(answer.json())


def _print_cluster(cluster: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for pool, replicas in cluster["pools"].items():
        table = Table(title=f"{pool}: {len(replicas)}", title_justify="left", title_style="bold")
        for column in REPLICA_COLUMNS:
            table.add_column(column, overflow="fold")
        for replica in replicas:
            table.add_row(*(str(replica.get(column, "")) for column in REPLICA_COLUMNS))
        console.print(table)
    rates = [r["gauges"][SYNTHETIC_GAUGE] for r in cluster["pools"].get("verifier", []) if SYNTHETIC_GAUGE in r.get("gauges", {})]
    if rates:
        console.print(f"SYNTHETIC ACCEPTANCE at rate {min(rates):g}: texts are not the target's", style="bold red")
    for pool, totals in cluster.get("totals", {}).items():
        counters = (f"{name} {number:,.10g}" for name, number in totals.items())
        console.print(f"[bold]{pool}, all together[/]: {', '.join(counters)}")
    console.print(f"[bold]sessions[/]: {cluster.get('sessions', 0)}")
    for pool, size in cluster["sizes"].items():
        bounds = "" if size["most"] is None else f", between {size['least']} and {size['most']}"
        console.print(f"[bold]{pool} pool[/]: {size['actual']} of {size['desired']} desired{bounds}; {size['reason']}")
    _print_goodput(console, cluster["goodput"])


def _print_goodput(console: Console, goodput: dict[str, Any]) -> None:
    def number(name: str, form: str = ",.1f") -> str:
        return "-" if goodput[name] is None else format(goodput[name], form)

    lines = {
        "goodput": f"{number('committed_per_s')} tokens/s; one more verifier would add {number('one_more_verifier_per_s')}, "
        f"one more drafter {number('one_more_drafter_per_s')}",
        "drafts a second": f"{number('drafted_per_s')} drafted, {number('verified_per_s')} verified, {number('accepted_per_s')} accepted, "
        f"{number('wasted_per_s')} wasted; {number('refused_sessions_per_s')} sessions refused",
        "measured over predicted": f"tokens {number('tokens_over_predicted', '.2f')}, seconds {number('seconds_over_predicted', '.2f')}",
        "price of a node": f"{number('price_median', '.3f')} tokens ({number('price_lowest', '.3f')} to {number('price_highest', '.3f')}), "
        f"floor {number('price_floor', '.3f')}",
        "in use": f"verifiers {number('verifier_utilisation', '.0%')} (between steps {number('between_steps_share', '.0%')}), "
        f"drafters {number('drafter_utilisation', '.0%')}; {goodput['queue']} requests queue",
    }
    for name, line in lines.items():
        console.print(f"[bold]{name}[/]: {line}")
