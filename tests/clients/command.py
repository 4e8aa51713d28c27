"""`python -m tests.clients NAME ...`: installs a client in an environment of its own, and tries its features on a server.

Exit status 1 where a feature failed. docs/clients.md is the table of what was found.
"""

import json
import os
import pathlib
import subprocess
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.console import Console

from tests.clients.catalogue import CLIENTS, Client
from tests.clients.environment import default_root, prepared
from tests.clients.scripted_server import scripted_server

TIMEOUT_S = 300
RESULT = "feature: "
"""Begins each line of a scenario's output that is a result, in JSON: `feature`, `ok`, `note`."""

clients_app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@clients_app.command()
def clients(
    names: Annotated[list[str], typer.Argument(help=f"{', '.join(CLIENTS)}; all: each in turn.")],
    url: Annotated[str, typer.Option(help="A server that runs. Without one, this process serves a script that calls tools.")] = "",
    model: Annotated[str, typer.Option(help="The name of its model.")] = "demo",
    tokenizer: Annotated[str, typer.Option(help="A folder with its tokenizer, for load generators.")] = "drafthouse/demo_models/target",
    tools: Annotated[bool, typer.Option(help="Whether its model can be asked to call tools.")] = True,
    root: Annotated[pathlib.Path | None, typer.Option(help="Where environments go; outside of the repository.")] = None,
) -> None:
    """Tries clients on a server and prints what works."""
    wanted = list(CLIENTS) if names == ["all"] else names
    unknown = [name for name in wanted if name not in CLIENTS]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(CLIENTS)}")
    console, failed = Console(), 0
    with nullcontext(url) if url else scripted_server() as base:
        settings = {"URL": base, "MODEL": model, "TOKENIZER": str(pathlib.Path(tokenizer).resolve()), "TOOLS": "1" if tools else ""}
        for name in wanted:
            failed += _try(CLIENTS[name], root or default_root(), settings, console)
    raise typer.Exit(1 if failed else 0)


def _try(client: Client, root: pathlib.Path, settings: dict[str, str], console: Console) -> int:
    """How many features failed."""
    console.print(f"{client.name}: {' '.join(client.packages)}", highlight=False, markup=False)
    try:
        with console.status("installing"):
            command = prepared(client, root)
    except subprocess.CalledProcessError as error:
        console.print(f"  cannot be installed: exit status {error.returncode}")
        return 1
    environment = {**os.environ, **{f"CLIENTS_{name}": value for name, value in settings.items()}, "OPENAI_API_KEY": "none"}
    results = _results(command, environment)
    for result in results:
        note = f": {result['note']}" if result["note"] else ""
        line = f"  {'works' if result['ok'] else 'FAILS'}  {result['feature']}{note}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return sum(not result["ok"] for result in results) or not results


def _results(command: list[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    """What the scenario told. Prints the end of its output where it failed or told nothing."""
    done = subprocess.run(command, env=environment, timeout=TIMEOUT_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.splitlines()
    told = [json.loads(line.removeprefix(RESULT)) for line in lines if line.startswith(RESULT)]
    if done.returncode or not told:
        print("\n".join(f"  | {line}" for line in lines if not line.startswith(RESULT))[-4000:])
    return told
