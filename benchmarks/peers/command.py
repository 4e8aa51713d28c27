"""`bench peers`: options in, report out.

Promises: options are checked before a server is started.
"""

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Target, Tokens
from deployments.cli.options import Json, errors

QUICK_TOKENS = 32


def peers(
    target: Target = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or int8, of all servers; with commas, one after the other.")] = "bfloat16",
    threads: Annotated[int, typer.Option(help="Of every server.", min=1)] = 2,
    clients: Annotated[str, typer.Option(help="Requests at the same time, with commas.")] = "1,8",
    prompt_tokens: Annotated[
        str | None, typer.Option(help="Lengths of prompts, with commas. Default: 16,256,1024; with --lookup 256,1024.")
    ] = None,
    tokens: Tokens = 96,
    rounds: Annotated[int, typer.Option(help="Turns of each server at each place; with several clients half as many.", min=1)] = 4,
    lookup: Annotated[bool, typer.Option("--lookup", help="Prompts that copy: prompt lookup beside llama.cpp's n-grams.")] = False,
    draft: Annotated[str, typer.Option(help="With --lookup: a draft model of ours that drafts, too.")] = "",
    llama: Annotated[str, typer.Option(help="Folder with llama-server and llama-quantize.")] = "",
    vllm: Annotated[str, typer.Option(help="Python of the environment with vLLM.")] = "",
    transformers: Annotated[str, typer.Option(help="Python of the environment with transformers[serving]. Default: this one.")] = "",
    ngram: Annotated[
        str, typer.Option(help="What turns on llama-server's speculation without a draft model.")
    ] = "--spec-type ngram-simple",
    quick: Annotated[bool, typer.Option("--quick", help="One round of 32 tokens; several clients with short prompts alone.")] = False,
    json_file: Json = None,
) -> None:
    """Ours beside the servers of llama.cpp, vLLM and transformers, on the same weights: tokens/s, first token, ratios. docs/peers.md."""
    from benchmarks.peers.bench import PeersOptions, places, run_peers
    from benchmarks.peers.report import print_peers
    from benchmarks.peers.servers import DTYPES, Installed
    from deployments.cli.options import check_writable, write_json
    from drafthouse.errors import ConfigError
    from simulator.policies import chosen, counts

    console = Console()
    with errors():
        check_writable(json_file)
        if draft and not lookup:
            raise ConfigError("--draft: the plain run drafts nothing; give --lookup, too")
        lengths = counts("--prompt-tokens", prompt_tokens or ("256,1024" if lookup else "16,256,1024"), most=100_000, fewest=1)
        where = places(counts("--clients", clients, fewest=1), lengths, quick)
        options = PeersOptions(
            target, chosen("--dtype", dtype, DTYPES), threads, where, QUICK_TOKENS if quick else tokens, 1 if quick else rounds, lookup,
            Installed(llama, vllm, transformers, ngram), draft,
        )  # fmt: skip
        report = run_peers(options, console)
        write_json(json_file, report)
    print_peers(console, report)
