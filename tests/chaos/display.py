"""What a chaos run shows: how far it is, each fault as it happens, and the report."""

from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.chaos.report import MIN_RUNNING, NOTICE_LIMIT_S, Report


class ProgressDisplay:
    """A bar for the fault-free run, one for the faults."""

    def __init__(self, console: Console, streams: int, faults: int):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._fault_free = self._progress.add_task("fault-free texts", total=streams)
        self._faults = self._progress.add_task("faults", total=faults, start=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def fault_free_ended(self) -> None:
        self._progress.advance(self._fault_free)
        if self._progress.finished or self._progress.tasks[self._fault_free].finished:
            self._progress.start_task(self._faults)

    def struck(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, soft_wrap=True)
        self._progress.advance(self._faults)


def print_chaos(console: Console, report: Report) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="by kind of fault; pauses of the streams that ran", title_justify="left")
    table.add_column("fault", no_wrap=True)
    for heading in ("count", "noticed s", "pause s\nmedian", "\nlongest", "least\nrunning"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, row in report["by_fault"].items():
        pauses = [f"{row['pause_s'][name]:.2f}" for name in ("median", "longest")] if row["pause_s"] else ["-", "-"]
        table.add_row(kind, str(row["faults"]), f"{row['noticed_s']:.2f}", *pauses, str(row["least_running"]))
    console.print(table)
    console.print(
        f"{report['faults']} faults, each with at least {max(report['least_running'], MIN_RUNNING)} streams running; {report['streams']}"
        f" streams of {report['tokens']} tokens, {report['resumed']} of them resumed",
        highlight=False,
    )
    console.print(
        f"unexplained {report['unexplained']}, explained {report['explained']}, lost {report['lost']}, doubled {report['doubled']},"
        f" unfinished {report['unfinished']}; longest pause {report['longest_pause_s']:.2f} s"
        f" ({report['fault_free']['longest_pause_s']:.2f} s without faults)",
        highlight=False,
    )
    for error in report["errors"]:
        console.print(f"unfinished: {error['request']} after {error['tokens']} tokens: {error['error']}", markup=False, highlight=False)
    if report["faults_not_counted"]:
        console.print(f"{report['faults_not_counted']} faults do not count: nothing was seen to be lost, or too few streams ran")
    if report["noticed_late"]:
        console.print(f"{report['noticed_late']} stopped processes were certainly not noticed within {NOTICE_LIMIT_S:g} s")
    console.print("passed" if report["passed"] else "FAILED", style="bold green" if report["passed"] else "bold red")
