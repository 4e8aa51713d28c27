"""`bench cancel` and `bench soak`: options in, report out; exit status 1 where something was left behind or had no end."""

import pathlib
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from deployments.cli.options import Json, errors

if TYPE_CHECKING:
    from benchmarks.cancel.server import OwnServer

Share = Annotated[float, typer.Option(help="Share of the requests that is cancelled.", min=0.0, max=1.0)]
InFlight = Annotated[int, typer.Option(help="Requests at a time.", min=1, max=4096)]
OutputTokens = Annotated[str, typer.Option(help="Output tokens of a request: a count, or a range to draw from.")]
Seed = Annotated[int, typer.Option(help="Of the traffic.", min=0)]
Config = Annotated[pathlib.Path | None, typer.Option(help="Config of the server that is started, in place of a small queue.")]


def cancel(
    url: Annotated[str | None, typer.Option(help="A running server, as it is; by default one is started.")] = None,
    grpc: Annotated[str | None, typer.Option(help="Its gRPC address; by default port 9000 of the same host.")] = None,
    requests: Annotated[int, typer.Option(help="Requests in all.", min=1, max=1_000_000)] = 2000,
    share: Share = 0.2,
    in_flight: InFlight = 48,
    tokens: OutputTokens = "4-24",
    seed: Seed = 0,
    config: Config = None,
    json_file: Json = None,
) -> None:
    """Short requests over HTTP and gRPC, some cancelled at random points: every one has an end, and nothing stays behind."""
    from benchmarks.cancel.bench import CancelOptions, lines, run_cancel
    from benchmarks.cancel.server import OwnServer
    from deployments.cli.options import check_writable, write_json
    from simulator.policies import lengths

    console = Console()
    with errors(), ExitStack() as stack:
        check_writable(json_file)
        options = CancelOptions(requests, share, in_flight, lengths("--tokens", tokens), seed)
        if url is None:
            server = _started(OwnServer(config), stack, console)
            url, grpc = server.url, server.grpc
        report = run_cancel(options, url, grpc or f"{urlsplit(url).hostname}:9000", console)
        write_json(json_file, report)
    for line in lines(report):
        console.print(line, highlight=False)
    if not report["held"]:
        raise typer.Exit(1)


def soak(
    requests: Annotated[int, typer.Option(help="Requests in all.", min=100, max=10_000_000)] = 10_000,
    share: Share = 0.2,
    minutes: Annotated[float, typer.Option(help="Over which they are spread; longer where the server cannot keep up.", min=0.1)] = 21.0,
    clients: Annotated[int, typer.Option(help="API keys that take turns.", min=1, max=64)] = 4,
    in_flight: InFlight = 48,
    tokens: OutputTokens = "4-24",
    seed: Seed = 0,
    config: Config = None,
    json_file: Json = None,
) -> None:
    """Short requests of several clients for a long time, some cancelled: nothing stays behind; memory of each process over time."""
    from benchmarks.cancel.bench import CancelOptions, lines
    from benchmarks.cancel.server import OwnServer
    from benchmarks.cancel.soak import MODES, print_memory, run_soak
    from deployments.cli.options import check_writable, write_json
    from drafthouse.security.api_keys import generate_key
    from simulator.policies import lengths

    console = Console()
    with errors(), ExitStack() as stack:
        check_writable(json_file)
        options = CancelOptions(requests, share, in_flight, lengths("--tokens", tokens), seed, requests / (60 * minutes), MODES)
        keys = [generate_key() for _ in range(clients)]
        server = _started(OwnServer(config, keys), stack, console)
        report = run_soak(options, server, keys, console)
        write_json(json_file, report)
    for line in lines(report):
        console.print(line, highlight=False)
    print_memory(console, report["memory"])
    if not report["held"]:
        raise typer.Exit(1)


def _started(server: "OwnServer", stack: ExitStack, console: Console) -> "OwnServer":
    """It is closed with `stack`."""
    with console.status("starting Ray and the Serve application"):
        server.start()
    return stack.enter_context(closing(server))
