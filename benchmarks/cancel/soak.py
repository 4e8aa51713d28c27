"""`drafthouse bench soak`: short requests of several clients for a long time, a share of them cancelled, and what grows.

Promises: the verdict is that of `bench cancel`, over the whole time: every request had its end, and nothing is held when all have.
Growth of memory is reported for each process of the server, not judged.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cancel.bench import CancelOptions, Tally, run_cancel
from benchmarks.cancel.memory import MemoryWatch
from benchmarks.cancel.server import OwnServer
from benchmarks.harness.report import Report

WARM_UP_SHARE = 0.2
"""Of the requests. Caches fill meanwhile: prefixes, allocators' arenas, logs' buffers."""

SAMPLES = 120
MODES = ("auto", "off")


def run_soak(options: CancelOptions, server: OwnServer, keys: Sequence[str], console: Console) -> Report:
    """Raises ConfigError or BenchError when the server does not answer."""
    tally = Tally()
    pause_s = options.requests / options.per_second / SAMPLES
    with MemoryWatch(server.processes, lambda: tally.ended, pause_s) as watch:
        report = run_cancel(options, server.url, server.grpc, console, keys, tally)
    return report | {"memory": watch.report(round(WARM_UP_SHARE * options.requests)), "warm_up": WARM_UP_SHARE}


def print_memory(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(
        title=f"memory after {WARM_UP_SHARE:.0%} of the requests, in the middle and at the end, MB; slopes in MB per 1,000 requests"
    )
    table.add_column("process")
    for name in ("RSS", "middle", "end", "slope", "PSS at the end", "slope", "open files", "at the end"):
        table.add_column(name, justify="right")
    for row in rows:
        sizes = [f"{row[name]:.1f}" for name in ("start_mb", "middle_mb", "end_mb")]
        slopes = [f"{row['rss_slope']:+.2f}", f"{row['pss_end_mb']:.1f}", f"{row['pss_slope']:+.2f}"]
        table.add_row(row["process"], *sizes, *slopes, str(row["files_start"]), str(row["files_end"]))
    console.print(table)
