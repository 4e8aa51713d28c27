"""A server in a process of its own, for as long as a benchmark wants it.

Promises: gone after `close` with all processes that it started, and after a start that failed; an error carries the server's last words.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import httpx
import psutil

from benchmarks.harness.http_stream import BenchError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.25
WORDS = 2000


class ServerProcess:
    def __init__(self, name: str):
        """`name` stands in errors."""
        self.name = name
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, config: str, arguments: Sequence[str], ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S
    ) -> None:  # fmt: skip
        """Runs the interpreter with `arguments` and the path of a file with `config`; returns when `ready()`, which may raise
        while there is no answer. Raises BenchError."""
        folder = self._new_folder()
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        self._run([sys.executable, *arguments, str(folder / "config.yaml")], os.environ, ready, timeout_s)

    def start_program(self, command: Sequence[str], environment: Mapping[str, str], ready: Callable[[], bool], timeout_s: float) -> None:
        """The same with any program. Raises BenchError, also where there is no such program."""
        self._new_folder()
        self._run(command, environment, ready, timeout_s)

    def _new_folder(self) -> pathlib.Path:
        self._folder = tempfile.TemporaryDirectory(prefix="drafthouse-bench-")
        return pathlib.Path(self._folder.name)

    def _run(self, command: Sequence[str], environment: Mapping[str, str], ready: Callable[[], bool], timeout_s: float) -> None:
        self._log = pathlib.Path(self._folder.name) / "server.log"
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self._wait(self._process, ready, timeout_s)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise BenchError(f"{self.name} cannot be run: {error}") from error
            raise

    def _wait(self, process: subprocess.Popen[bytes], ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise BenchError(f"{self.name} ended with status {process.returncode}:\n{self._tail()}")
            try:
                if ready():
                    return
            except (httpx.HTTPError, LookupError, ValueError):
                pass
            time.sleep(POLL_S)
        raise BenchError(f"{self.name} was not ready after {timeout_s:.0f} s:\n{self._tail()}")

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-WORDS:].strip()

    def processes(self) -> list[psutil.Process]:
        """The server and all that it started, as far as they live."""
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def close(self) -> None:
        process, family = self._process, self.processes()
        try:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
        finally:  # also where an impatient Ctrl-C ends the wait
            for left in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
            if process is not None:
                process.wait()
            self._folder.cleanup()
