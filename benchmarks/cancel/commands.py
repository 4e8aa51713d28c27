"""`bench cancel`: options in, report out; exit status 1 where something was left behind or had no end."""

import pathlib
from contextlib import ExitStack, closing
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from deployments.cli.options import Json, errors

Share = Annotated[float, typer.Option(help="Share of the requests that is cancelled.", min=0.0, max=1.0)]


def cancel(
    url: Annotated[str | None, typer.Option(help="A running server, as it is; by default one is started.")] = None,
    grpc: Annotated[str | None, typer.Option(help="Its gRPC address; by default port 9000 of the same host.")] = None,
    requests: Annotated[int, typer.Option(help="Requests in all.", min=1, max=1_000_000)] = 2000,
    share: Share = 0.2,
    in_flight: Annotated[int, typer.Option(help="Clients at a time.", min=1, max=4096)] = 48,
    tokens: Annotated[str, typer.Option(help="Output tokens of a request: a count, or a range to draw from.")] = "4-24",
    seed: Annotated[int, typer.Option(help="Of the traffic.", min=0)] = 0,
    config: Annotated[pathlib.Path | None, typer.Option(help="Config of the server that is started, in place of a small queue.")] = None,
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
            server = OwnServer(config)
            with console.status("starting Ray and the Serve application"):
                server.start()
            stack.enter_context(closing(server))
            url, grpc = server.url, server.grpc
        report = run_cancel(options, url, grpc or f"{urlsplit(url).hostname}:9000", console)
        write_json(json_file, report)
    for line in lines(report):
        console.print(line, highlight=False)
    if not report["held"]:
        raise typer.Exit(1)
