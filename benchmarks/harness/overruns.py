"""Overruns of a paced run: passes that the CPU could not compute in the curve's time.

Promises: a run in which more than `OVERRUN_LIMIT` of a pool's passes were overruns is void, and says so.
"""

from collections.abc import Mapping

from rich.console import Console

from benchmarks.harness.report import Report

OVERRUN_LIMIT = 0.01

Totals = Mapping[str, Mapping[str, float]]
"""Counters by role."""


def overruns(after: Totals, before: Totals) -> dict[str, float]:
    """Share of each paced pool's passes between two readings; no entry for a pool that is not paced."""
    shares = {}
    for role in ("verifier", "drafter"):
        steps, late = (after[role].get(name, 0.0) - before[role].get(name, 0.0) for name in ("paced_steps", "paced_overruns"))
        if steps:
            shares[role] = late / steps
    return shares


def is_void(shares: Mapping[str, float]) -> bool:
    """`shares` are those of the passes of each pool."""
    return max(shares.values(), default=0.0) > OVERRUN_LIMIT


def print_overruns(console: Console, report: Report) -> None:
    """The report's `overruns` and `void`; nothing for a server that is not paced."""
    shares = ", ".join(f"{role} {share:.2%}" for role, share in report["overruns"].items())
    if shares:
        console.print(f"passes that the CPU could not compute in the curve's time: {shares}", highlight=False)
    if report["void"]:
        console.print(
            f"[bold red]void[/]: more than {OVERRUN_LIMIT:.0%}; use a larger --time-scale, --threads or fewer --step-tokens",
            highlight=False,
        )
