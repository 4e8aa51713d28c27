"""`python -m tests.fuzz`: options in, report out; exit status 1 where something was found."""

import asyncio
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.options import Json, errors

if TYPE_CHECKING:
    from tests.fuzz.run import Target

SHOWN = 20

fuzz_app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@fuzz_app.command()
def fuzz(
    inputs: Annotated[int, typer.Option(help="In all, over all ports.", min=100)] = 20_000,
    in_flight: Annotated[int, typer.Option(help="Inputs at a time.", min=1, max=256)] = 8,
    seed: Annotated[int, typer.Option(help="Of all inputs: the same one sends the same.", min=0)] = 0,
    secured: Annotated[bool, typer.Option("--secured", help="API keys, and mutual TLS on the data plane of the server started.")] = False,
    url: Annotated[str | None, typer.Option(help="A cluster that runs, without keys or TLS; by default one is started.")] = None,
    grpc: Annotated[str, typer.Option(help="Its gRPC API.")] = "localhost:9000",
    only: Annotated[str, typer.Option(help="Ports whose name begins so: http, grpc, data plane, tcp.")] = "",
    json_file: Json = None,
) -> None:
    """Requests made from /openapi.json, mutated bodies, mutated protobuf and plain bytes, on every port of a cluster."""
    from deployments.cli.options import check_writable, write_json
    from tests.fuzz.findings import Findings
    from tests.fuzz.run import Counts, fuzz_cluster

    console, findings = Console(), Findings()
    console.print(f"seed {seed}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with errors():
        check_writable(json_file)
        with _target(url, grpc, secured, console) as target, Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("inputs", total=inputs)
            counts = Counts(inputs, in_flight, seed, only)
            left = asyncio.run(fuzz_cluster(target, counts, findings, lambda: progress.advance(task)))
        report = findings.report() | {"seed": seed, "left": left}
        write_json(json_file, report)
    for port, statuses in report["statuses"].items():
        console.print(f"{port}: {', '.join(f'{status} {count}' for status, count in statuses.items())}", highlight=False)
    console.print(f"{report['inputs']} inputs, {report['findings']} findings; left in the cluster: {left['in_use']}", highlight=False)
    for kind, count in report["kinds"].items():
        console.print(f"{count} x {kind}", highlight=False, markup=False)
    for found in report["kept"][:SHOWN]:
        console.print(f"{found['port']} {found['number']}: {found['fault']}\n    {found['sent'][:500]}", highlight=False, markup=False)
    if report["findings"]:
        raise typer.Exit(1)


@contextmanager
def _target(url: str | None, grpc: str, secured: bool, console: Console) -> "Iterator[Target]":
    from benchmarks.cancel.server import OwnServer
    from drafthouse.security.api_keys import generate_key
    from drafthouse.wire.transport import PLAINTEXT, load_transport
    from tests.fuzz.run import Target
    from tests.unit.certificates import Authority

    if url is not None:
        yield Target(url, grpc, {}, PLAINTEXT)
        return
    with tempfile.TemporaryDirectory(prefix="drafthouse-fuzz-") as folder:
        keys = [generate_key()] if secured else []
        data_plane = Authority("fuzz").issue().write(pathlib.Path(folder)) if secured else None
        server = OwnServer(None, keys, data_plane)
        with console.status("starting Ray and the Serve application"):
            server.start()
        with closing(server):
            headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
            yield Target(server.url, server.grpc, headers, load_transport(data_plane))
