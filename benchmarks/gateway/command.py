"""`bench gateway`: options in, report out."""

from typing import Annotated

import typer
from rich.console import Console

from deployments.cli.options import Json, errors

QUICK_SECONDS = 4.0


def gateway(
    streams: Annotated[str, typer.Option(help="Streams at the same time, with commas.")] = "256,1000",
    seconds: Annotated[float, typer.Option(help="Length of each measurement.", min=1)] = 10.0,
    step_ms: Annotated[float, typer.Option(help="Time between two steps of the scripted verifier.", min=1)] = 100.0,
    quick: Annotated[bool, typer.Option("--quick", help="4 s each.")] = False,
    json_file: Json = None,
) -> None:
    """What a chunk costs from a scripted verifier through the real gateway and proxy to the client: CPU by process, gaps, loop lag."""
    from benchmarks.gateway.bench import GatewayOptions, print_gateway, run_gateway
    from deployments.cli.options import check_writable, write_json
    from simulator.policies import counts

    console = Console()
    with errors():
        check_writable(json_file)
        options = GatewayOptions(counts("--streams", streams, fewest=1), QUICK_SECONDS if quick else seconds, step_ms)
        report = run_gateway(options, console)
        write_json(json_file, report)
    print_gateway(console, report)
