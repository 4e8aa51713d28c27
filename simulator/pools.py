"""Several targets and kinds of drafters under each policy of the pools, on the same arrivals: what it brings, how soon it follows the load.

Promises: every policy meets the same requests at the same times; ratios are to the best of the policies that are not the controller's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from drafthouse.engine.curve_files import load_curve
from drafthouse.objective import Objective
from drafthouse.policy.latency import Curve
from simulator.cluster import Outcome, simulate
from simulator.mix import DIRECTIVES, EQUAL, DrafterKind, Mix, RequestKind
from simulator.options import Options
from simulator.policies import positive
from simulator.trace import TraceRequest

DRAFTERS = (
    Curve("fast", "assumed: 2.5 ms a pass, 0.05 ms a token", 2.5, 0.05, 4.6e-6),
    Curve("slow", "assumed: 5 ms a pass, 0.5 ms a token", 5.0, 0.5, 2e-5),
)
"""Two kinds whose time for a node tells, so that there can be too few of them."""

FIRST_TOKEN_S = 2.0
"""Of the objective: what is compared is the time per token, so a queue at the verifiers must not decide."""


@dataclass(frozen=True, slots=True)
class PoolPoint:
    """One policy at one pair of pool sizes, over all seeds."""

    policy: str
    verifiers: int
    drafters: int
    outcomes: tuple[Outcome, ...]

    def mean(self, name: str) -> float:
        """Of a figure of `cluster.Outcome`."""
        return fmean(getattr(outcome, name) for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class Compared:
    """At one pair of pool sizes: the directives' weighted goodput over that of the best other policy, and by how many points they keep
    more objectives than without weights."""

    verifiers: int
    drafters: int
    ratio: float
    best_other: str
    kept_points: float


def pool_mix(
    targets: str, urgent_share: float, per_token_ms: float, priority: int, first_share: Sequence[float], output_tokens: tuple[int, int]
) -> Mix:
    """Raises ConfigError naming the option."""
    positive("--urgent-share", urgent_share, 1.0)
    positive("--per-token-ms", per_token_ms, 1e5)
    return Mix(
        targets=tuple(load_curve(name.strip()) for name in targets.split(",")),
        drafters=tuple(map(DrafterKind, DRAFTERS)),
        requests=(RequestKind(1.0 - urgent_share), RequestKind(urgent_share, Objective(FIRST_TOKEN_S, per_token_ms / 1e3), priority)),
        first_share=tuple(first_share), output_tokens=output_tokens,
    )  # fmt: skip


def run_policy(plan: Options, policy: str, seeds: int, trace: Sequence[TraceRequest]) -> PoolPoint:
    """The same arrivals for every policy."""
    plans = [replace(plan, mix=replace(plan.mix, policy=policy), seed=plan.seed + i) for i in range(seeds)]
    return PoolPoint(policy, plan.verifiers, plan.drafters, tuple(simulate(each, trace) for each in plans))


def compare(points: Iterable[PoolPoint]) -> list[Compared]:
    """Of each pair of pool sizes at which the directives and another policy ran."""
    by_sizes: dict[tuple[int, int], dict[str, PoolPoint]] = {}
    for p in points:
        by_sizes.setdefault((p.verifiers, p.drafters), {})[p.policy] = p
    found = []
    for (verifiers, drafters), here in by_sizes.items():
        others = {policy: p.mean("weighted_goodput_per_s") for policy, p in here.items() if policy != DIRECTIVES}
        if DIRECTIVES not in here or not others:
            continue
        best, ours = max(others, key=others.__getitem__), here[DIRECTIVES]
        kept = 100.0 * (ours.mean("kept_share") - here[EQUAL].mean("kept_share")) if EQUAL in here else 0.0
        ratio = ours.mean("weighted_goodput_per_s") / others[best] if others[best] else 1.0
        found.append(Compared(verifiers, drafters, ratio, best, kept))
    return found


def pools_report(plan: Options, points: Sequence[PoolPoint]) -> dict[str, Any]:
    """For `--json`."""
    return {
        "simulated": True, "mix": asdict(plan.mix), "seconds": plan.seconds,
        "points": [
            {"policy": p.policy, "verifiers": p.verifiers, "drafters": p.drafters, "seeds": [asdict(o) for o in p.outcomes]} for p in points
        ],
        "compared": [asdict(c) for c in compare(points)],
    }  # fmt: skip


def print_pools(console: Console, points: Sequence[PoolPoint]) -> None:
    table = Table(title="simulated", title_justify="left")
    headings = (
        "veri-\nfiers", "draf-\nters", "policy", "weighted\ntokens/s", "tokens\n/s", "kept", "mean\ns", "tokens\n/step", "ver.\nbusy",
        "dra.\nbusy", "follows\nafter s",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for p in points:
        table.add_row(
            str(p.verifiers), str(p.drafters), p.policy, f"{p.mean('weighted_goodput_per_s'):,.0f}",
            f"{p.mean('goodput_tokens_per_s'):,.0f}", f"{p.mean('kept_share'):.0%}", f"{p.mean('mean_latency_s'):.3f}",
            f"{p.mean('tokens_per_step'):.2f}", f"{p.mean('verifier_utilisation'):.0%}", f"{p.mean('drafter_utilisation'):.0%}",
            f"{p.mean('follow_s'):.1f}",
        )  # fmt: skip
    console.print(table)
    for c in compare(points):
        console.print(
            f"{c.verifiers} verifiers, {c.drafters} drafters: directives bring {c.ratio:.3f} x the weighted goodput of the best other "
            f"({c.best_other}), and keep {c.kept_points:+.0f} points more objectives than without weights",
            highlight=False,
        )
