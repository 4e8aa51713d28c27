"""`drafthouse bench json`: options in, report out; exit status 1 where an answer does not fit."""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Target, Threads
from deployments.cli.options import Json, errors

Schemas = Annotated[
    pathlib.Path | None, typer.Option(help="JSON list of objects with name, task and schema. Default: 20 of the package.", exists=True)
]


def structured(
    target: Target = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, float64 or int8.")] = "bfloat16",
    threads: Threads = 2,
    generations: Annotated[int, typer.Option(help="Answers at each number of streams.", min=1)] = 500,
    tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=8)] = 400,
    streams: Annotated[list[int] | None, typer.Option(help="Requests at once; may be given several times. Default: 1 and 8.")] = None,
    schemas: Schemas = None,
    json_file: Json = None,
) -> None:
    """Structured output: whether all answers fit their schemas, the share of forced tokens, and time per token beside free text."""
    from benchmarks.structured.bench import SCHEMAS, print_json, run_json
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_json(target, dtype, threads, generations, tokens, streams or [1, 8], schemas or SCHEMAS)
        write_json(json_file, report)
    print_json(Console(), report)
    if report["faults"]:
        raise typer.Exit(1)
