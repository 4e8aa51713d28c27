"""`bench lm-eval`: options in, scores side by side out.

Promises: exit status 1 where the scores differ in their first four digits.
"""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Target, Threads
from deployments.cli.options import Json, errors


def lm_eval(
    program: Annotated[pathlib.Path, typer.Option("--lm-eval", help="The program lm_eval, in an environment of its own.")],
    target: Target = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, of both.")] = "float32",
    threads: Threads = 2,
    concurrent: Annotated[int, typer.Option(help="Requests of lm-eval at the same time.", min=1)] = 4,
    limit: Annotated[int | None, typer.Option(help="Items of each task. Default: all.", min=1)] = None,
    json_file: Json = None,
) -> None:
    """EleutherAI's lm-eval on a server that this command starts, beside its own model of the same weights. docs/lm-eval.md."""
    from benchmarks.lm_eval.bench import LmEvalOptions, print_lm_eval, run_lm_eval
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        report = run_lm_eval(LmEvalOptions(program, target, dtype, threads, concurrent, limit), console)
        write_json(json_file, report)
    print_lm_eval(console, report)
    if not report["equal"]:
        raise typer.Exit(1)
