"""The command line: `drafthouse`. Each command lives in a module of its own and imports what is heavy when it runs."""

from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Annotated

import typer

from deployments.cli import batch as batch_command
from deployments.cli import chat as chat_command
from deployments.cli import distill as distill_command
from deployments.cli import generate as generate_command
from deployments.cli import hash_key as key_command
from deployments.cli import logs as logs_command
from deployments.cli import make_models
from deployments.cli import profile as profile_command
from deployments.cli import replay as replay_command
from deployments.cli import serve as serve_command
from deployments.cli import simulate as simulate_command
from deployments.cli import simulate_pools as simulate_pools_command
from deployments.cli import status as status_command
from drafthouse import __version__


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"drafthouse {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Serve language models with speculative decoding, drafts and targets in separate pools on Ray Serve."""


def build_cli() -> typer.Typer:
    """The whole command tree."""
    cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
    cli.callback()(_root)
    cli.command()(serve_command.serve)
    cli.command()(serve_command.stop)
    cli.command()(generate_command.generate)
    cli.command()(chat_command.chat)
    cli.command()(replay_command.replay)
    cli.command()(batch_command.batch)
    cli.command()(status_command.status)
    cli.command()(logs_command.logs)
    cli.command("hash-key")(key_command.hash_key)
    cli.command()(profile_command.profile)
    cli.command()(simulate_command.simulate)
    cli.command()(distill_command.distill)
    cli.command("simulate-pools")(simulate_pools_command.simulate_pools)
    cli.command("train-demo")(make_models.train_demo)
    cli.command()(make_models.inflate)
    cli.command("build-trigram")(make_models.build_trigram)
    for extra in entry_points(group="drafthouse.commands"):
        if find_spec(extra.module.partition(".")[0]) is not None:  # the image leaves benchmarks/ out
            cli.add_typer(extra.load(), name=extra.name)
    return cli


def main() -> None:
    build_cli()()
