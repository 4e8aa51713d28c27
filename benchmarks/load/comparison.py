"""What became of each policy: points, and the ratios that say whether `auto` was right.

Promises: pure. `auto_vs_best` compares with the best of all other policies, chosen without the
requests it is compared on: the best on even segments is the base on odd ones and the other way
round, so that being best by luck gains nothing. Up to saturation ratios are of mean latencies;
beyond it, where latency grows for as long as the trace lasts, of the time to finish the same work.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.load.blocks import Block, Place, of
from benchmarks.load.statistics import Ratio, drawn, estimate, mean, p99, pooled, ratio
from simulator.policies import AUTO, CONTROL, OFF

Json = dict[str, Any]

SATURATION = 1.0
COUNTS = ("drafted", "verified", "accepted", "steps")


def point(blocks: Sequence[Block]) -> Json:
    """All blocks of one policy at one place."""
    first, served = blocks[0], [s for block in blocks for s in block.served]
    draws = drawn([len(block.served) for block in blocks])
    estimates = {
        "mean_latency_s": mean(np.array([s.latency_s for s in served]), draws),
        "p99_latency_s": p99(np.array([s.latency_s for s in served]), draws),
        "ttft_s": mean(np.array([s.ttft_s for s in served]), draws),
        "tpot_s": mean(np.array([s.tpot_s for s in served]), draws),
    }
    tokens, seconds = np.array([b.tokens for b in blocks]), np.array([b.finish_s for b in blocks])
    each = drawn([len(blocks)])
    goodput = estimate(tokens.sum() / seconds.sum(), tokens[each].sum(axis=1) / seconds[each].sum(axis=1))
    return {
        "workload": first.place.workload, "load": first.place.load, "rate": first.place.rate, "policy": first.policy,
        "requests": len(served), **{name: e.value for name, e in estimates.items()},
        "goodput_tokens_per_s": goodput.value, "finish_s": float(seconds.sum()), "late_s": max(s.sent_s for s in served),
        "intervals": {name: [e.low, e.high] for name, e in {**estimates, "goodput_tokens_per_s": goodput}.items()},
        **{name: sum(getattr(s.completion, name) for s in served) for name in COUNTS},
    }  # fmt: skip


def ratios(blocks: Sequence[Block], policies: Sequence[str]) -> Json:
    """By name: `value`, `low` and `high` of the mean latency pooled over places, `points` for each place, the same under
    `time_to_finish` for places beyond saturation. A ratio is absent where its policies were not run."""
    places = list(dict.fromkeys(block.place for block in blocks))
    others = [p for p in policies if p not in (AUTO, CONTROL)]
    bases: dict[str, Callable[[Place], tuple[str, str]]] = {}
    if AUTO in policies and others:
        bases["auto_vs_best"] = lambda place: best(blocks, place, others)
    if AUTO in policies and OFF in policies:
        bases["auto_vs_off"] = lambda place: (OFF, OFF)
    if AUTO in policies and CONTROL in policies:
        bases["control"] = lambda place: (CONTROL, CONTROL)
    return {name: _compared(blocks, places, base) for name, base in bases.items()}


def best(blocks: Sequence[Block], place: Place, policies: Iterable[str]) -> tuple[str, str]:
    """The policies to compare with on even and on odd segments: each the best of the other half."""

    def half(policy: str, parity: int) -> float:
        return _cost([b for b in of(blocks, place, policy) if b.segment % 2 == parity])

    candidates = list(policies)
    return min(candidates, key=lambda p: half(p, 1)), min(candidates, key=lambda p: half(p, 0))


def _cost(blocks: Sequence[Block]) -> float:
    """Mean latency, or beyond saturation the time to finish."""
    assert blocks
    if blocks[0].place.load > SATURATION:
        return sum(block.finish_s for block in blocks)
    return float(_latencies(blocks).mean())


def _latencies(blocks: Sequence[Block]) -> np.ndarray:
    return np.array([s.latency_s for block in blocks for s in block.served])


def _compared(blocks: Sequence[Block], places: Sequence[Place], base: Callable[[Place], tuple[str, str]]) -> Json:
    rows: list[tuple[Place, tuple[str, str], Ratio]] = []
    for place in places:
        names = base(place)
        rows.append((place, names, _ratio(blocks, place, names)))
    steady = [row for row in rows if row[0].load <= SATURATION]
    overload = [row for row in rows if row[0].load > SATURATION]
    return {**(_summary(steady) if steady else {}), **({"time_to_finish": _summary(overload)} if overload else {})}


def _summary(rows: Sequence[tuple[Place, tuple[str, str], Ratio]]) -> Json:
    points = [
        {"workload": place.workload, "load": place.load, "base": list(dict.fromkeys(names)), **r.estimate.as_json()}
        for place, names, r in rows
    ]
    return {**pooled([r for _, _, r in rows]).as_json(), "points": points}


def _ratio(blocks: Sequence[Block], place: Place, base: tuple[str, str]) -> Ratio:
    """Auto to `base[0]` on even segments and to `base[1]` on odd ones."""
    ours = of(blocks, place, AUTO)
    theirs = [of(blocks, place, base[block.segment % 2])[block.segment] for block in ours]
    if place.load > SATURATION:
        return ratio(np.array([b.finish_s for b in ours]), np.array([b.finish_s for b in theirs]), [len(ours)])
    return ratio(_latencies(ours), _latencies(theirs), [len(b.served) for b in ours])
