"""Which `drafthouse serve` runs on this machine, so that another shell can stop it.

Promises: one file for each HTTP port, in the user's runtime folder. A file whose process is gone,
or whose process id now belongs to something else, counts as absent.
"""

import contextlib
import json
import os
import pathlib
import signal
import tempfile
from dataclasses import asdict, dataclass

import psutil

from drafthouse.errors import ConfigError

STOP_TIMEOUT_S = 60.0
"""Serve's own shutdown takes up to 30 s when replicas hang."""


@dataclass(frozen=True)
class Server:
    """A running server; `started` (Unix seconds) tells its process from a later one with the same id, `checkout` whose code it runs."""

    pid: int
    started: float
    http_port: int
    checkout: str = ""

    def process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
        except psutil.NoSuchProcess:
            return None
        return process if same else None


def checkout() -> str:
    """The folder from which this command runs: another one's servers may be another's work."""
    return str(pathlib.Path(__file__).resolve().parents[2])


def folder() -> pathlib.Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and pathlib.Path(runtime).is_dir():
        return pathlib.Path(runtime)
    return pathlib.Path(tempfile.gettempdir())


def path(http_port: int) -> pathlib.Path:
    return folder() / f"drafthouse-{os.getuid()}-{http_port}.pid"


def write(http_port: int) -> None:
    """Says that this process serves on a port. Raises ConfigError where another does already, or the folder is not writable."""
    if other := [server for server in running() if server.http_port == http_port]:
        raise ConfigError(f"server.http_port: process {other[0].pid} serves on port {http_port}, or is about to; `drafthouse stop` ends it")
    server = Server(os.getpid(), psutil.Process().create_time(), http_port, checkout())
    try:
        path(http_port).write_text(json.dumps(asdict(server)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path(http_port)}: {error.strerror or error}") from error


def remove(http_port: int) -> None:
    """What this process wrote."""
    if any(server.pid == os.getpid() and server.http_port == http_port for server in running()):
        path(http_port).unlink(missing_ok=True)


def running() -> list[Server]:
    """All servers of this user that still run; files of those that do not are removed."""
    found = []
    for file in sorted(folder().glob(f"drafthouse-{os.getuid()}-*.pid")):
        try:
            server = Server(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            server = None
        if server is not None and server.process() is not None:
            found.append(server)
        else:
            file.unlink(missing_ok=True)
    return found


def stop(server: Server) -> bool:
    """Asks a server to shut down and waits; kills it where it does not. True if it went by itself."""
    process = server.process()
    if process is None:
        return True
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except psutil.TimeoutExpired:
        children = process.children(recursive=True)
        for one in [process, *children]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        path(server.http_port).unlink(missing_ok=True)
        return False
    return True
