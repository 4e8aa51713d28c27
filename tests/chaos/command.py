"""`python -m tests.chaos`: options in, log and report out.

Promises: options are checked before a server is started; the exit status is 1 unless the report says `passed`.
"""

import asyncio
import pathlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Draft, PromptTokens, Target
from deployments.cli.options import Json, errors

if TYPE_CHECKING:
    from tests.chaos.faults import Fault
    from tests.chaos.server import Address
    from tests.chaos.work import Work

QUICK_STREAMS, THOROUGH_STREAMS = 20, 64
"""Of `--quick` a few more than must run at each fault. Faults: one of each kind, and two."""

chaos_app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@chaos_app.command()
def chaos(
    log: Annotated[pathlib.Path, typer.Option(help="Raw log to write: what the client saw, one JSON object a line.")],
    json_file: Json = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK_STREAMS} streams and one fault of each kind.")] = False,
    streams: Annotated[int | None, typer.Option(help=f"Streams at any time; {THOROUGH_STREAMS} unless --quick.", max=1024)] = None,
    faults: Annotated[int | None, typer.Option(help="Faults; two of each kind unless --quick.")] = None,
    seed: Annotated[int, typer.Option(help="Of faults and requests.", min=0)] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens of a stream.", min=2)] = 160,
    prompt_tokens: PromptTokens = 48,
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    url: Annotated[
        str | None, typer.Option(help="A cluster that runs on this machine, with at least two verifiers; by default one is started.")
    ] = None,
    grpc: Annotated[str, typer.Option(help="Its gRPC API.")] = "localhost:9000",
    recompute: Annotated[bool, typer.Option("--recompute", help="Make the report of --log, which exists, and run nothing.")] = False,
) -> None:
    """Kill, stop, cut off and freeze drafters, verifiers and the controller under running streams, and compare every text with the
    fault-free one. Cuts need root and the program nft, frozen devices need root on Linux; they are left out without."""
    from benchmarks.harness.nftables import possible as can_cut
    from deployments.cli.options import check_writable, write_json
    from tests.chaos.display import print_chaos
    from tests.chaos.event_log import read_log
    from tests.chaos.faults import CUTS, FREEZES, KINDS, plan
    from tests.chaos.freezes import possible as can_freeze
    from tests.chaos.oracle import Oracle
    from tests.chaos.report import make_report

    console = Console()
    kinds = (*KINDS, *(CUTS if can_cut() else ()), *(FREEZES if can_freeze() else ()))
    default_streams, rounds = (QUICK_STREAMS, 1) if quick else (THOROUGH_STREAMS, 2)
    with errors():
        check_writable(json_file)
        if not recompute:
            check_writable(log, "--log")
            schedule = plan(rounds * len(kinds) if faults is None else faults, seed, kinds)
            works = _works(target, default_streams if streams is None else streams, prompt_tokens, tokens, seed)
            with _address(url, grpc, target, draft, len(works), prompt_tokens + tokens, console) as address:
                _run(address, works, schedule, log, console)
        with console.status("comparing texts"):
            report = make_report(read_log(log), Oracle(target))
        write_json(json_file, report)
    print_chaos(console, report)
    if not report["passed"]:
        raise typer.Exit(1)


def _works(target: str, streams: int, prompt_tokens: int, tokens: int, seed: int) -> "list[Work]":
    """Raises ConfigError naming --streams where faults could never strike."""
    from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
    from drafthouse.checkpoints.model_path import model_path
    from drafthouse.demo_models.prompts import PROMPTS
    from drafthouse.errors import ConfigError
    from tests.chaos.report import MIN_RUNNING
    from tests.chaos.work import make_works

    if streams <= MIN_RUNNING:
        raise ConfigError(f"--streams {streams}: more than {MIN_RUNNING}, since so many must run at each fault while others end and begin")
    prompts = encode(load_tokenizer(model_path(target)), load_texts(None, min(streams, PROMPTS)), prompt_tokens)
    return make_works(prompts, streams, tokens, seed)


@contextmanager
def _address(url: str | None, grpc: str, target: str, draft: str, streams: int, tokens: int, console: Console) -> "Iterator[Address]":
    from tests.chaos.server import Address, ChaosServer

    if url is not None:
        yield Address(url, grpc)
        return
    server = ChaosServer(target, draft, streams, tokens)
    with console.status("starting Ray and the Serve application"):
        server.start()
    with closing(server):
        yield server.address


def _run(address: "Address", works: "list[Work]", faults: "list[Fault]", path: pathlib.Path, console: Console) -> None:
    from benchmarks.harness.http_stream import connect, only_model
    from tests.chaos.display import ProgressDisplay
    from tests.chaos.event_log import EventLog
    from tests.chaos.run import run_chaos

    with connect(address.url, trust_env=False) as client:
        model = only_model(client)
    with path.open("w", encoding="utf-8") as file, ProgressDisplay(console, len(works), len(faults)) as display:
        asyncio.run(run_chaos(address, model, works, faults, EventLog(file), display))
