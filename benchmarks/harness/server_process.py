"""A server in a process of its own, for as long as a benchmark wants it.

Promises: gone after `close`, and after a start that failed; an error carries the server's last words.
"""

import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import httpx

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
        self._folder = tempfile.TemporaryDirectory(prefix="drafthouse-bench-")
        folder = pathlib.Path(self._folder.name)
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            command = [sys.executable, *arguments, str(folder / "config.yaml")]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            self._wait(self._process, ready, timeout_s)
        except BaseException:
            self.close()
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

    def close(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()
