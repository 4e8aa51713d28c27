"""`python -m tests.chaos --quick` on a cluster of its own: each kind of fault once, and nothing lost, doubled or unexplained."""

import json
import pathlib
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from benchmarks.harness.nftables import possible as can_cut
from tests.chaos.command import chaos_app
from tests.chaos.event_log import Event, read_log
from tests.chaos.faults import CUTS, FREEZES, KINDS
from tests.chaos.freezes import possible as can_freeze
from tests.chaos.oracle import Oracle
from tests.chaos.report import MIN_RUNNING, Report, make_report

pytestmark = [pytest.mark.cluster_long, pytest.mark.timeout(900)]


@dataclass
class Run:
    status: int
    output: str
    log: pathlib.Path
    report: Report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("chaos")
    log, report = folder / "log.jsonl", folder / "report.json"
    result = CliRunner().invoke(chaos_app, ["--quick", "--log", str(log), "--json", str(report)])
    assert report.exists(), result.output
    return Run(result.exit_code, result.output, log, json.loads(report.read_text(encoding="utf-8")))


def test_clients_see_no_fault(run: Run) -> None:
    report = run.report
    assert (report["unexplained"], report["lost"], report["doubled"], report["unfinished"]) == (0, 0, 0, 0), run.output
    assert (run.status, report["passed"]) == (0, True), run.output


def test_every_kind_of_fault_struck_while_enough_streams_ran(run: Run) -> None:
    kinds = (*KINDS, *(CUTS if can_cut() else ()), *(FREEZES if can_freeze() else ()))
    assert run.report["faults"] == len(run.report["by_fault"]) == len(kinds)
    assert run.report["least_running"] >= MIN_RUNNING
    assert run.report["resumed"] > 0, "streams were meant to lose their verifiers"


def test_what_is_planted_in_the_log_is_found(run: Run) -> None:
    """By the real oracle, in a stream that went through several verifiers."""
    events, oracle = read_log(run.log), Oracle("demo:target")
    assert make_report(events, oracle) == run.report
    under_faults = [e for e in events if e["event"] == "end" and not e["request"].startswith("fault-free")]
    resumed = next(e for e in under_faults if e["attempt"] > 1 and e["position"] > 20)["request"]
    line = next(i for i, e in enumerate(events) if e["event"] == "token" and (e["request"], e["position"]) == (resumed, 10))
    wrong: Event = {**events[line], "token": (events[line]["token"] + 1000) % 4096}
    for planted, counts in (
        ([], {"lost": 1}),
        ([events[line], events[line]], {"doubled": 1}),
        ([wrong], {"unexplained": 1}),
    ):
        found = make_report([*events[:line], *planted, *events[line + 1 :]], oracle)
        assert not found["passed"]
        assert {name: found[name] for name in ("lost", "doubled", "unexplained") if found[name]} == counts
