"""`drafthouse status --watch`: rates between two looks, on a terminal and in a pipe, while the server goes away and comes back."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from controller.registry import Registry
from deployments.cli.cluster_view import ShownCluster, read_cluster
from deployments.cli.main import build_cli
from deployments.cli.status_watch import StatusWatch
from drafthouse.config.serving import ControllerConfig
from drafthouse.wire.reports import AnyReport
from drafthouse.wire.totals import GatewayTotals
from tests.unit.registry_api import RegistryApi
from tests.unit.reports import drafter_report, drafter_totals, gateway_report, verifier_report, verifier_totals

LEAVES_SCREEN, SHOWS_CURSOR = "\x1b[?1049l", "\x1b[?25h"
SAFETY_S = 60.0


def observe(registry: Registry, seconds: float, name: str = "v0", **verifier: Any) -> None:
    """What replicas report that have worked for this long."""
    counters = {"committed": 100 * seconds, "verified": 80 * seconds, "accepted": 20 * seconds, "steps": 10 * seconds}
    reports = (
        verifier_report(name, totals=verifier_totals(**counters), price=0.25, load=3, **verifier),
        drafter_report(totals=drafter_totals(drafted=50 * seconds), load=2),
        gateway_report(totals=GatewayTotals(requests=int(seconds))),
    )
    for report in reports:
        registry.observe(started(report, 1.0), seconds)


def started(report: AnyReport, at: float) -> AnyReport:
    return replace(report, replica=replace(report.replica, started=at))


def cluster(registry: Registry) -> ShownCluster:
    api = RegistryApi(registry)
    try:
        return read_cluster(httpx.get(f"{api.url}/v1/cluster"))
    finally:
        api.stop()


def figures(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in line.split() if "=" in part)


@pytest.fixture
def registry() -> Registry:
    return Registry(ControllerConfig(expire_heartbeats=1000))


def test_a_line_tells_rates_and_what_holds_now(registry: Registry) -> None:
    watch = StatusWatch()
    observe(registry, 10.0, gate_open=False)
    watch.seen(cluster(registry), 1000.0)
    assert figures(watch.line(0.0))["tokens_per_s"] == "-", "one look has no rates"
    observe(registry, 14.0, gate_open=False)
    watch.seen(cluster(registry), 1002.0)
    line = watch.line(1764539155.0)
    assert line.startswith("2025-11-30T21:45:55Z ")
    assert figures(line) == {
        "tokens_per_s": "200.0", "prompt_tokens_per_s": "0.0", "requests_per_s": "2.00", "steps_per_s": "20.0", "drafted_per_s": "100.0",
        "acceptance": "0.250", "goodput": "100.0", "price": "0.250", "gates_open": "0/1", "sessions": "2", "requests": "3", "queue": "0",
        "gateways": "1", "verifiers": "1", "drafters": "1",
    }  # fmt: skip


def test_a_replica_that_joins_or_restarts_makes_no_jump(registry: Registry) -> None:
    watch = StatusWatch()
    observe(registry, 10.0)
    watch.seen(cluster(registry), 0.0)
    observe(registry, 11.0)
    observe(registry, 11.0, "v1")
    watch.seen(cluster(registry), 1.0)
    assert watch.rates is not None
    assert watch.rates.tokens_per_s == pytest.approx(100.0)
    registry.observe(started(verifier_report(totals=verifier_totals(committed=5000), pid=2), 7.0), 12.0)
    watch.seen(cluster(registry), 2.0)
    assert watch.rates is not None
    assert watch.rates.tokens_per_s == pytest.approx(0.0)
    assert watch.rates.acceptance is None


def test_without_an_answer_the_last_state_stays_and_rates_begin_again(registry: Registry) -> None:
    watch = StatusWatch()
    observe(registry, 10.0)
    watch.seen(cluster(registry), 0.0)
    watch.lost("connection\nrefused", 1764539155.0)
    watch.lost("timed out", 1764539165.0)
    assert watch.line(1764539165.0) == "2025-11-30T21:46:05Z unreachable since=2025-11-30T21:45:55Z reason=timed out"
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(watch.view(1764539165.0))
    said = console.export_text()
    assert "unreachable since 2025-11-30T21:45:55Z: timed out" in said
    assert "verifier: 1" in said
    assert "rates" not in said
    watch.seen(cluster(registry), 100.0)
    assert watch.rates is None
    assert "unreachable" not in watch.line(1764539175.0)


class Command:
    """The command in a process of its own; its output goes to a terminal of its own, or to a pipe."""

    def __init__(self, port: int, terminal: bool) -> None:
        self._read, write = pty.openpty() if terminal else os.pipe()
        code = "from deployments.cli.main import main; main()"
        arguments = ["status", "--watch", "--interval", "0.1", "--url", f"http://127.0.0.1:{port}"]
        env = os.environ | {"COLUMNS": "200", "LINES": "60", "TERM": "xterm"}
        self.process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, stdout=write, env=env)
        os.close(write)
        self.output = ""

    def until(self, pattern: str) -> None:
        """Drops what was shown up to the pattern."""
        deadline = time.monotonic() + SAFETY_S
        while not (found := re.search(pattern, self.output)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.output!r}"
            if not self._more():
                raise AssertionError(f"ended with {self.process.wait()}: {self.output}")
        self.output = self.output[found.end() :]

    def _more(self) -> bool:
        select.select([self._read], [], [], 1.0)
        try:
            new = os.read(self._read, 65536)
        except OSError:  # a terminal whose other end is closed
            return False
        self.output += new.decode(errors="replace")  # a read may end inside a character
        return bool(new)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        while self._more():
            pass
        return self.process.wait(SAFETY_S)

    def close(self) -> None:
        os.close(self._read)
        self.process.kill()
        self.process.wait()


@contextmanager
def running(port: int, terminal: bool) -> Iterator[Command]:
    command = Command(port, terminal)
    try:
        yield command
    finally:
        command.close()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_a_server_that_goes_away_and_comes_back(registry: Registry, terminal: bool) -> None:
    observe(registry, 10.0)
    api = RegistryApi(registry)
    working = r"rates over the last \d" if terminal else r"Z tokens_per_s=0\.0 .* sessions=2 .*\n"
    with running(api.port, terminal) as command:
        command.until(working)
        api.stop()
        command.until("unreachable since")
        again = RegistryApi(registry, api.port)
        command.until(working)
        assert command.interrupt() == 0
        again.stop()
    if terminal:
        assert LEAVES_SCREEN in command.output
        assert SHOWS_CURSOR in command.output
    else:
        assert "\x1b" not in command.output


def test_json_is_for_one_look() -> None:
    result = CliRunner().invoke(build_cli(), ["status", "--watch", "--json"])
    assert result.exit_code == 1
    assert "--watch, --json" in result.output
