"""`drafthouse bench`: what the system is worth, measured. Each benchmark is a module of its own, imported when it runs.

Promises: an error is one message that names the option, with exit status 1; so is a paced run that is void.
"""

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from drafthouse.errors import DrafthouseError

bench_app = typer.Typer(no_args_is_help=True, help="Measure speed: against transformers, over HTTP, on paced devices.")

Target = Annotated[str, typer.Option(help="Target: folder, hub id or demo:target.")]
Draft = Annotated[str, typer.Option(help="Draft: folder, hub id or demo:draft.")]
Prompts = Annotated[int, typer.Option(help="Prompts, spread over those there are.", min=1)]
Tokens = Annotated[int, typer.Option(help="New tokens after each prompt.", min=2)]
Rounds = Annotated[int, typer.Option(help="Times that everything is run.", min=1)]
PromptsFile = Annotated[
    pathlib.Path | None, typer.Option(help="JSON list of texts, or of objects with text. Default: held-out prompts of the package.")
]
Json = Annotated[pathlib.Path | None, typer.Option("--json", help="File to write all numbers to.")]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except DrafthouseError as error:
        console = Console(stderr=True)
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@bench_app.command()
def offline(
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    threads: Annotated[int, typer.Option(help="torch threads, of all contestants.", min=1)] = 2,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64, of all contestants.")] = "float32",
    compile_: Annotated[
        bool, typer.Option("--compile/--no-compile", help="torch.compile our models; needs a C++ compiler and minutes before the start.")
    ] = False,
    prompts: Prompts = 12,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    prompts_file: PromptsFile = None,
    kv_tokens: Annotated[int, typer.Option(help="KV slots of our models.", min=64)] = 4096,
    json_file: Json = None,
) -> None:
    """One process, one stream: ours with and without speculation beside transformers plain, assisted and with prompt lookup."""
    from benchmarks.contestants import Pair
    from benchmarks.offline import OfflineOptions, notes, run_offline, title
    from benchmarks.report import check_writable, print_report, write_json

    console = Console()
    with _errors():
        check_writable(json_file)
        pair = Pair(target, draft, dtype, threads, compile_, kv_tokens)
        report = run_offline(OfflineOptions(pair, prompts, tokens, rounds, prompts_file), console)
        write_json(json_file, report)
    print_report(console, report, title(report))
    for line in notes(report):
        console.print(line, highlight=False)


@bench_app.command()
def http(
    url: Annotated[str, typer.Option(help="HTTP address of a running server.", envvar="DRAFTHOUSE_URL")] = "http://localhost:8000",
    model: Annotated[str | None, typer.Option(help="Model name; by default the server's one model.")] = None,
    prompts: Prompts = 12,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    prompts_file: PromptsFile = None,
    json_file: Json = None,
) -> None:
    """Speculation auto against off, through the HTTP API of a running server, one stream."""
    from benchmarks.http import HttpOptions, notes, run_http
    from benchmarks.report import check_writable, print_report, write_json

    console = Console()
    with _errors():
        check_writable(json_file)
        report = run_http(HttpOptions(url, model, prompts, tokens, rounds, prompts_file), console)
        write_json(json_file, report)
    print_report(console, report, f"{report['settings']['model']} at {url}; {prompts} prompts x up to {tokens} tokens x {rounds} rounds")
    for line in notes(report):
        console.print(line, highlight=False)


@bench_app.command()
def paced(
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    target_curve: Annotated[
        str, typer.Option(help="Curve of the target's passes: a name in the package or a JSON file.")
    ] = "llama-70b-4xh100",
    draft_curve: Annotated[str, typer.Option(help="Curve of the draft's passes.")] = "draft-0.5b",
    time_scale: Annotated[
        float, typer.Option(help="Stretches both curves where this CPU is slower than they are; 2 suits the demo pair.", min=0.01, max=1000)
    ] = 2.0,
    threads: Annotated[int, typer.Option(help="torch threads of each replica.", min=1)] = 1,
    step_tokens: Annotated[int, typer.Option(help="Tokens of one step at most, prompt chunks and trees.", min=16)] = 32,
    prompts: Prompts = 8,
    prompt_tokens: Annotated[int, typer.Option(help="Prompts are cut to their last so many tokens.", min=1)] = 64,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    prompts_file: PromptsFile = None,
    json_file: Json = None,
) -> None:
    """A paced 70B target with a paced draft through a real Ray cluster that this command starts: speed-up, overlap, overhead."""
    from benchmarks.paced import PacedOptions, print_paced, run_paced
    from benchmarks.paced_server import PacedPair
    from benchmarks.report import check_writable, write_json

    console = Console()
    with _errors():
        check_writable(json_file)
        pair = PacedPair(target, draft, target_curve, draft_curve, time_scale, threads, step_tokens)
        report = run_paced(PacedOptions(pair, prompts, prompt_tokens, tokens, rounds, prompts_file), console)
        write_json(json_file, report)
    print_paced(console, report)
    if report["void"]:
        raise typer.Exit(1)
