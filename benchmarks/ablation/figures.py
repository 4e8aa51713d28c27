"""From timed generations to the ablation's figures.

Promises: pure. A configuration's figures stand under its name, then `greedy` or `sampled`, then the
figure's name, and nothing else stands beside them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ablation.configurations import CONTROL, PLAIN, TREE
from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.report import Report
from benchmarks.harness.samples import Ratio, Sample, pick, ratio, tokens_per_second


@dataclass(frozen=True, slots=True)
class Work:
    """What drafter and verifier counted over some generations; seconds are of this machine's clock.

    `steps`, `verified`, `run_seconds` and `wait_seconds` are the verifier's: its steps, nodes in them, seconds on the target's device, and
    time between steps while it had work;
    `passes` and `pass_seconds` the drafter's, as are `judged` and `first`: committed tokens for which the draft model had ranked
    children, and those that it had ranked first.
    """

    committed: float = 0.0
    steps: float = 0.0
    verified: float = 0.0
    run_seconds: float = 0.0
    wait_seconds: float = 0.0
    passes: float = 0.0
    pass_seconds: float = 0.0
    judged: float = 0.0
    first: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def __sub__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, name) - getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Generation:
    """One timed generation: `sample` counts what its rate is made of, `seconds` is its whole time."""

    sample: Sample
    seconds: float
    work: Work


def ablation_report(groups: Sequence[Sequence[Generation]], names: Sequence[str]) -> Report:
    """`figures` by configuration, and `control`: the rate of `tree again` to that of `tree`. Configurations of one group took turns;
    each is compared with `plain` in its own. A text without a counted token has no rate."""
    figures = {name: {s: _figures(_beside(groups, name), name, s) for s in SAMPLINGS} for name in names}
    for both in figures.values():
        both["sampled"]["kept"] = kept(both)
    samples = [g.sample for g in _beside(groups, CONTROL) if g.sample.tokens]
    control = {s: _as_json(ratio(pick(samples, CONTROL, s), pick(samples, TREE, s))) for s in SAMPLINGS}
    return {"figures": figures, "control": control}


def _beside(groups: Sequence[Sequence[Generation]], name: str) -> list[Generation]:
    """All generations of the groups that a configuration was run in."""
    return [g for group in groups if any(each.sample.contestant == name for each in group) for g in group]


def _figures(generations: Sequence[Generation], name: str, sampling: str) -> dict[str, Any]:
    samples = [g.sample for g in generations if g.sample.tokens]
    mine = [g for g in generations if (g.sample.contestant, g.sample.sampling) == (name, sampling)]
    work, seconds = total(g.work for g in mine), sum(g.seconds for g in mine)
    own = pick(samples, name, sampling)
    return {
        "tokens_per_second": tokens_per_second(own),
        "ratio_to_plain": _as_json(ratio(own, pick(samples, PLAIN, sampling))),
        "tokens_per_step": sum(s.tokens for s in own) / max(1, sum(s.target_passes for s in own)),
        "nodes_per_step": work.verified / max(1.0, work.steps),
        "draft_share_of_time": work.pass_seconds / seconds,
        "wait_share_of_time": work.wait_seconds / seconds,
        "draft_time_hidden": max(0.0, 1.0 - work.wait_seconds / work.pass_seconds) if work.pass_seconds else None,
        "draft_passes_per_token": work.passes / max(1.0, work.committed),
        "first_choice_right": work.first / work.judged if work.judged else None,
        "ms_per_draft_pass": 1e3 * work.pass_seconds / work.passes if work.passes else None,
    }


def total(works: Iterable[Work]) -> Work:
    return sum(works, start=Work())


def _as_json(r: Ratio) -> dict[str, float]:
    return {"value": r.value, "low": r.low, "high": r.high, "median_of_prompts": r.median_of_prompts}


def kept(both: Mapping[str, Any]) -> float:
    """Speed-up over plain when sampling, by that when greedy: 1.98 / 3.16 = 0.63 in arXiv 2308.04623."""
    return float(both["sampled"]["ratio_to_plain"]["value"] / both["greedy"]["ratio_to_plain"]["value"])
