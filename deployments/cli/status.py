"""`drafthouse status`: the pools of a running server, their replicas, goodput and totals; once, or live."""

import json
import sys
import time
from typing import Annotated

import httpx
import typer
from rich.console import Console

from deployments.cli.cluster_view import cluster_view, read_cluster
from deployments.cli.http_client import DEFAULT_URL, Url, check, server
from deployments.cli.options import errors, fail
from deployments.cli.status_watch import StatusWatch, shown_in_lines, shown_live

ANSWER_TIMEOUT_S = 10.0


def status(
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's JSON as it is.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it live with rates, until Ctrl-C; in a pipe, a line each time.")
    ] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1, max=3600)] = 2.0,
) -> None:
    """Show the pools, their replicas, and totals."""
    if watch and as_json:
        fail("--watch, --json: one of them; for JSON again and again, ask for --json again and again")
    console = Console(highlight=False)
    with errors(), server(url, ANSWER_TIMEOUT_S) as client:
        if watch:
            _watch(client, console, interval)
            return
        answer = client.get("/v1/cluster")
        check(answer)
        if as_json:
            sys.stdout.write(json.dumps(answer.json(), indent=2) + "\n")
        else:
            console.print(*cluster_view(read_cluster(answer), time.time()), sep="\n")


def _watch(client: httpx.Client, console: Console, interval_s: float) -> None:
    """Until Ctrl-C or SIGTERM. A server that cannot be reached is asked again; one that refuses ends the command."""
    try:
        with shown_live(console) if console.is_terminal else shown_in_lines(sys.stdout) as show:
            state = StatusWatch()
            while True:
                _look(client, state)
                show(state, time.time())
                time.sleep(interval_s)
    except KeyboardInterrupt:
        pass


def _look(client: httpx.Client, state: StatusWatch) -> None:
    try:
        answer = client.get("/v1/cluster")
    except httpx.TransportError as error:
        state.lost(str(error) or type(error).__name__, time.time())
        return
    if answer.status_code >= 500:
        state.lost(f"{answer.status_code} from {answer.request.url}", time.time())
        return
    check(answer)
    state.seen(read_cluster(answer), time.monotonic())
