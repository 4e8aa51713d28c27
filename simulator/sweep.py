"""Simulations at several pool sizes, one after the other, each with its share of the load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drafthouse.errors import ConfigError
from simulator.cluster import Outcome, simulate
from simulator.options import Options
from simulator.trace import TraceRequest

MOST_REPLICAS = 5000
"""In each pool of one simulation: more would take hours."""


@dataclass(frozen=True, slots=True)
class Point:
    """One simulation: its pool sizes, requests per second (None: as recorded in the trace), and what came of it."""

    verifiers: int
    drafters: int
    rate: float | None
    outcome: Outcome


def pool_sizes(option: str, text: str, least: int) -> list[int]:
    """From `50,100,200`. Raises ConfigError naming the option."""
    try:
        sizes = [int(item) for item in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is neither a count nor a list of counts with commas") from error
    for size in sizes:
        if not least <= size <= MOST_REPLICAS:
            raise ConfigError(f"{option} must lie between {least} and {MOST_REPLICAS}, not {size}")
    return sizes


def planned(options: Options, verifiers: Sequence[int], drafters: Sequence[int], per_verifier: bool) -> list[Options]:
    """The options of every pair of sizes; `per_verifier`: `options.rate` is the rate of each verifier. Raises ConfigError for a plan that
    cannot run, before the first one does."""
    if per_verifier and options.rate is not None and options.rate <= 0:
        raise ConfigError(f"--rate-per-verifier must be a positive number of requests per second, not {options.rate}")
    plans = [
        replace(options, verifiers=v, drafters=d, rate=options.rate * v if per_verifier and options.rate else options.rate)
        for v in verifiers
        for d in drafters
    ]
    for plan in plans:
        plan.check()
    return plans


def run(plan: Options, trace: Sequence[TraceRequest]) -> Point:
    return Point(plan.verifiers, plan.drafters, plan.rate, simulate(plan, trace))
