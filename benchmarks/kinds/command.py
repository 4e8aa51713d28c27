"""`drafthouse bench kinds`: options in, report out; exit status 1 where a text is not plain's."""

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Rounds, Target, Threads, Tokens
from deployments.cli.options import Json, errors

BUDGET_S, QUICK_S = 810.0, 150.0
"""Within 15 minutes, and within 3: what runs when the time is up, and the end of a server, are not cut short."""

QUICK_PROMPTS, QUICK_TOKENS = 12, 32
"""Two of each kind."""


def kinds(
    target: Target = "smollm2",
    draft: Annotated[str, typer.Option(help="A draft model of the target, such as `drafthouse distill` makes.")] = "",
    hidden: Annotated[str, typer.Option(help="One that reads the target's hidden states (`distill --hidden`).")] = "",
    merged: Annotated[str, typer.Option(help="The draft that is merged with lookup; by default --hidden, or else --draft.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, float64 or int8, of all models.")] = "bfloat16",
    threads: Threads = 2,
    draft_threads: Annotated[int | None, typer.Option(help="Of a draft; by default 1 over HTTP, else as --threads.", min=1)] = None,
    tokens: Tokens = 64,
    rounds: Rounds = 1,
    over_http: Annotated[bool, typer.Option("--http", help="Through a server for each configuration, which is started.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Within 3 minutes: two prompts of each kind, 32 tokens.")] = False,
    json_file: Json = None,
) -> None:
    """What a target's drafts bring on chats, code, summaries, edits, translations and JSON, beside lookup and plain decoding."""
    from benchmarks.kinds.bench import KindsOptions, print_kinds, run_kinds
    from benchmarks.kinds.configurations import Contest
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        contest = Contest(target, dtype, threads, draft, hidden, merged, draft_threads or (1 if over_http else threads))
        most, budget_s = (min(tokens, QUICK_TOKENS), QUICK_S) if quick else (tokens, BUDGET_S)
        options = KindsOptions(contest, most, rounds, over_http, budget_s, QUICK_PROMPTS if quick else None)
        report = run_kinds(options, console)
        write_json(json_file, report)
    print_kinds(console, report)
    if not report["texts"]["all_equal"]:
        raise typer.Exit(1)
