"""Options that several commands share, how their errors are shown, and how their reports are written.

Promises: an error is one message that names the option, with exit status 1. SIGTERM ends a command
like Ctrl-C does: the server that it started goes with it.
"""

import json
import os
import pathlib
import platform
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from drafthouse.engine.machine import cpu_name
from drafthouse.errors import ConfigError, DrafthouseError

Json = Annotated[pathlib.Path | None, typer.Option("--json", help="File to write all numbers to.")]
TargetCurve = Annotated[str, typer.Option(help="Curve of the target's passes: a name in the package or a JSON file.")]
DraftCurve = Annotated[str, typer.Option(help="Curve of the draft's passes.")]
TimeScale = Annotated[float, typer.Option(help="Stretches both curves where this CPU is slower than they are.", min=0.01, max=1000)]


@contextmanager
def errors() -> Iterator[None]:
    """Around a command's work: errors of ours end it with their message."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except DrafthouseError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the command: the message on standard error, exit status 1."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    raise typer.Exit(1)


BENCH_PACKAGES = ("matplotlib", "simpy")
"""The extra `drafthouse[bench]`, of which the roles and their images have no need."""


def require_bench(command: str) -> None:
    """Ends the command where packages of the extra are missing; the message names them."""
    missing = [name for name in BENCH_PACKAGES if find_spec(name) is None]
    if missing:
        fail(f"drafthouse {command} needs packages that are not installed ({', '.join(missing)}): pip install 'drafthouse[bench]'")


def machine() -> dict[str, Any]:
    """What a reader needs to judge the seconds. A load above a few tenths before the start spoils them."""
    return {
        "cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def write_json(path: pathlib.Path | None, report: Mapping[str, Any]) -> None:
    """Raises ConfigError naming --json."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror or error}") from error


def check_writable(path: pathlib.Path | None, option: str = "--json") -> None:
    """Before a run of minutes, not after it. Raises ConfigError naming the option."""
    if path is not None and not (path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
        raise ConfigError(f"{option} {path}: cannot be written")
