"""Options that several benchmarks share, and how their errors are shown.

Promises: an error is one message that names the option, with exit status 1. SIGTERM ends a benchmark
like Ctrl-C does: the server that it started goes with it.
"""

import pathlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from drafthouse.errors import DrafthouseError

Target = Annotated[str, typer.Option(help="Target: folder, hub id or demo:target.")]
Draft = Annotated[str, typer.Option(help="Draft: folder, hub id or demo:draft.")]
Prompts = Annotated[int, typer.Option(help="Prompts, spread over those there are.", min=1)]
Tokens = Annotated[int, typer.Option(help="New tokens after each prompt.", min=2)]
Rounds = Annotated[int, typer.Option(help="Times that everything is run.", min=1)]
PromptsFile = Annotated[
    pathlib.Path | None, typer.Option(help="JSON list of texts, or of objects with text. Default: held-out prompts of the package.")
]
Json = Annotated[pathlib.Path | None, typer.Option("--json", help="File to write all numbers to.")]


TargetCurve = Annotated[str, typer.Option(help="Curve of the target's passes: a name in the package or a JSON file.")]
DraftCurve = Annotated[str, typer.Option(help="Curve of the draft's passes.")]
TimeScale = Annotated[float, typer.Option(help="Stretches both curves where this CPU is slower than they are.", min=0.01, max=1000)]
Threads = Annotated[int, typer.Option(help="torch threads of each replica.", min=1)]
StepTokens = Annotated[int, typer.Option(help="Tokens of one step at most, prompt chunks and trees.", min=16)]
PromptTokens = Annotated[int, typer.Option(help="Prompts are cut to their last so many tokens.", min=1)]


@contextmanager
def errors() -> Iterator[None]:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except DrafthouseError as error:
        console = Console(stderr=True)
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
