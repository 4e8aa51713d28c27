"""`drafthouse serve` and `drafthouse stop`.

Promises: what `serve` started is gone when it returns, whether by Ctrl-C, SIGTERM or an error. An
error is one message that names the key, the file or the port, and exit status 1.
"""

import os
import pathlib
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from deployments.cli import pid_file
from deployments.cli.options import fail
from drafthouse.checkpoints.model_path import packaged_draft
from drafthouse.config.config_file import load_config
from drafthouse.config.serving import ModelConfig, ServingConfig
from drafthouse.errors import ConfigError, DrafthouseError

DRAFT_KV_TOKENS = 32768
"""Of a draft that ships: twice the target's, since sessions of sequences that wait keep theirs."""


def serve(
    config: Annotated[
        pathlib.Path | None, typer.Option(help="YAML file: our keys alone, or a Ray Serve config whose one application has them as args.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Serve this model: smollm2, a folder, a GGUF file or a hub id; without a draft model, unless one ships for it."
            " In place of --config."
        ),
    ] = None,
    allow_synthetic_acceptance: Annotated[
        bool, typer.Option("--allow-synthetic-acceptance", help="Serve a config with verifier.synthetic_acceptance; never in production.")
    ] = False,
) -> None:
    """Start Ray on this machine and serve the application until Ctrl-C.

    Without --config and --model it serves the demo pair that comes with the package. For a Ray cluster that already runs, use Ray's own
    `serve deploy deployments/serve_config.yaml`.
    """
    from deployments.cli.machine_checks import check_machine
    from deployments.preflight import ALLOW_SYNTHETIC, check_contents

    console = Console(stderr=True)
    try:
        serving = load_config(config) if model is None else config_of(model, config)
        if allow_synthetic_acceptance:
            os.environ[ALLOW_SYNTHETIC] = "1"
        check_machine(serving, os.environ)
        check_contents(serving)
        pid_file.write(serving.server.http_port)
    except DrafthouseError as error:
        fail(str(error))
    _run(serving, console)


def config_of(model: str, config: pathlib.Path | None) -> ServingConfig:
    """All defaults, with this target, the draft model that ships for it or none, and the path's last component as the model's name.

    Its draft is served for one machine: in a process of its own on one thread, as the verifier; its tree and that of prompt lookup,
    which runs beside the target, are merged. Raises ConfigError."""
    if config is not None:
        raise ConfigError("--model and --config: give one of them; in a file the same is `target: {path: ...}` and `draft: null`")
    name = os.path.basename(os.path.abspath(model))
    if not model or not name:
        raise ConfigError(f"--model: {model!r} names no model")
    shipped = packaged_draft(model)
    draft = ModelConfig(path=shipped, dtype="bfloat16", kv_tokens=DRAFT_KV_TOKENS) if shipped is not None else None
    return ServingConfig(model=name, target=ModelConfig(path=model), draft=draft)


def _run(config: ServingConfig, console: Console) -> None:
    from deployments.cli.local_cluster import LocalCluster

    cluster = LocalCluster(config)
    stop = _StopSignal()
    failure: str | None = None
    try:
        with console.status("starting Ray") as status:
            show = _Progress(console, status.update)
            show("starting Ray")
            cluster.start()
            stop.install()
            show("deploying")
            cluster.deploy(show)
        for line in cluster.load_lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        _print_ready(cluster.http_url, cluster.grpc_address, cluster.dashboard_url, config)
        stop.wait()
    except DrafthouseError as error:
        failure = str(error)
    except (KeyboardInterrupt, SystemExit):
        pass
    except Exception as error:  # fault boundary: Ray raises many kinds
        failure = f"{type(error).__name__}: {error}"
    finally:
        stop.ignore()
        console.print("stopping", highlight=False)
        logs = cluster.close()
        pid_file.remove(config.server.http_port)
    if failure is not None:
        fail(failure + (f"\nlogs: {logs}" if logs else ""))
    console.print("stopped" + (f"; logs: drafthouse logs --port {config.server.http_port}" if logs else ""), highlight=False)


class _Progress:
    """Shows each line once: in place on a terminal, one below the other in a log."""

    def __init__(self, console: Console, update: object):
        self._console = console
        self._update = update
        self._last = ""

    def __call__(self, line: str) -> None:
        if line == self._last:
            return
        self._last = line
        if self._console.is_terminal and callable(self._update):
            self._update(line)
        else:
            self._console.print(line, highlight=False, soft_wrap=True)


class _StopSignal:
    """SIGINT and SIGTERM end the wait; before `install` they interrupt whatever runs."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.install()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._event.set()
        raise KeyboardInterrupt

    def install(self) -> None:
        """Again after Ray has started, which puts its own handlers there.

        SIGINT too is set by hand: a shell starts background jobs with it ignored, and Python then leaves it so.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def wait(self) -> None:
        while not self._event.wait(1.0):
            pass

    def ignore(self) -> None:
        """A second Ctrl-C must not cut the shutdown short and leave processes behind."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _print_ready(http_url: str, grpc_address: str, dashboard_url: str, config: ServingConfig) -> None:
    needs_token = os.environ.get("RAY_AUTH_MODE") == "token"
    hint = f"  (its token: {sys.prefix}/bin/ray get-auth-token)" if needs_token else ""
    console = Console(highlight=False, soft_wrap=True)
    console.print("ready", style="bold green", end="")
    console.print(f": model {config.model!r}; Ctrl-C stops everything", markup=False)
    if (synthetic := config.verifier.synthetic_acceptance) is not None:
        console.print(f"SYNTHETIC ACCEPTANCE at rate {synthetic.rate:g}: texts are not the target's", style="bold red")
    console.print(f"HTTP API   {http_url}/v1")
    console.print(f"gRPC       {grpc_address}")
    console.print(f"cluster    {http_url}/v1/cluster")
    console.print(f"dashboard  {dashboard_url}{hint}")


def stop(
    port: Annotated[int | None, typer.Option(help="HTTP port of the server to stop; needed where several run.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop all servers of this user on this machine.")] = False,
) -> None:
    """Stop the `drafthouse serve` that runs in another shell. One that another checkout started is stopped by --port or --all alone."""
    console = Console(highlight=False, soft_wrap=True)
    servers = [server for server in pid_file.running() if port in (None, server.http_port)]
    if port is None and not every:
        own = [server for server in servers if server.checkout == pid_file.checkout()]
        if servers and not own:
            there = ", ".join(
                f"--port {server.http_port} (pid {server.pid}, started from {server.checkout or 'another'})" for server in servers
            )
            fail(f"no server of this checkout runs; of others: {there}. Name the port to stop one of them")
        servers = own
    if len(servers) > 1 and not every:
        # Another one may be somebody else's work.
        ports = ", ".join(str(server.http_port) for server in servers)
        fail(f"several servers run, on ports {ports}: name one with --port, or stop all with --all")
    if not servers:
        console.print("no server runs" if port is None else f"no server runs on port {port}")
    for server in servers:
        went = pid_file.stop(server)
        console.print(f"server on port {server.http_port} (pid {server.pid}) " + ("stopped" if went else "did not stop and was killed"))
