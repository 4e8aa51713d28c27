"""From texts written under each configuration to figures by kind of prompt.

Promises: pure. A configuration's figures stand under the kind (or `all`), its name, and `greedy` or `sampled`. Ratios are to `plain` and
its control together, the control's is to `plain`; their 95 % intervals are a bootstrap over prompts (`benchmarks.harness.samples`),
and four prompts of a kind give wide ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.ablation.figures import Work, total
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.harness.report import Report
from benchmarks.harness.samples import Sample, ratio, tokens_per_second
from benchmarks.kinds.configurations import CONTROL, PLAIN
from benchmarks.kinds.prompts import places
from drafthouse.demo_models.evaluation import repetition

ALL = "all"
LEAST_RATIO = 0.97
"""No interval of a kind should lie below this share of plain's speed."""


@dataclass(frozen=True, slots=True)
class Written:
    """One text of `tokens` tokens: ids or, over HTTP, characters. `first_s` to its first token, `seconds` to its last."""

    turn: Turn
    text: tuple[int, ...] | str
    tokens: int
    first_s: float
    seconds: float
    work: Work

    @property
    def sample(self) -> Sample:
        """The whole request, the prompt's pass included."""
        t = self.turn
        return Sample(t.contestant, t.sampling, t.prompt, self.tokens, self.seconds, round(self.work.steps))

    @property
    def decoding(self) -> Sample:
        """From the first token on."""
        t = self.turn
        return Sample(t.contestant, t.sampling, t.prompt, self.tokens - 1, self.seconds - self.first_s, 0)


def kinds_report(written: Sequence[Written], names: Sequence[str], kinds: Sequence[str], overlaps: bool) -> Report:
    """`kinds` are those of the prompts, in their order; `overlaps`: drafter and verifier work at once."""
    run = {w.turn.prompt for w in written}
    there = {kind: [i for i in numbers if i in run] for kind, numbers in places(kinds).items()}
    groups = {ALL: sorted(run), **{kind: numbers for kind, numbers in there.items() if numbers}}
    figures = {
        kind: {name: {s: figures_of(written, name, s, numbers, overlaps) for s in SAMPLINGS} for name in names}
        for kind, numbers in groups.items()
    }
    return {
        "kinds": figures,
        "kept_when_sampled": {
            name: both["sampled"]["ratio_to_plain"]["value"] / both["greedy"]["ratio_to_plain"]["value"]
            for name, both in figures[ALL].items()
            if name not in (PLAIN, CONTROL)
        },
        "below_plain": below_plain(figures),
        "texts": compared(written),
        "repeated_8_grams": repeated(written),
    }


def figures_of(written: Sequence[Written], name: str, sampling: str, prompts: Sequence[int], overlaps: bool) -> dict[str, Any]:
    """Of one configuration on some prompts."""
    asked = [w for w in written if w.turn.sampling == sampling and w.turn.prompt in prompts]
    mine = [w for w in asked if w.turn.contestant == name]
    plain = [w for w in asked if w.turn.contestant == PLAIN or (w.turn.contestant == CONTROL and name != CONTROL)]
    work, seconds = total(w.work for w in mine), sum(w.seconds for w in mine)
    decoding = [[w.decoding for w in some if w.tokens > 1] for some in (mine, plain)]
    return {
        "tokens_per_second": tokens_per_second([w.sample for w in mine]),
        "tokens_per_step": sum(w.tokens for w in mine) / max(1.0, work.steps),
        "nodes_per_step": work.verified / max(1.0, work.steps),
        "agreement": work.first / work.judged if work.judged else None,
        "ms_per_draft_pass": 1e3 * work.pass_seconds / work.passes if work.passes else None,
        "share_of_time": shares(work, seconds, overlaps),
        "ratio_to_plain": asdict(ratio([w.sample for w in mine], [w.sample for w in plain])),
        "decoding_ratio_to_plain": asdict(ratio(*decoding)) if all(decoding) else None,
    }


def shares(work: Work, seconds: float, overlaps: bool) -> dict[str, float]:
    """Of the requests' time: the target's device, the draft's passes, waiting for drafts between steps, and Python, over HTTP the gateway
    included. Where drafter and verifier take turns nothing waits, and the four are all; where they `overlap` the draft's passes lie
    beside the other three."""
    waiting = work.wait_seconds if overlaps else 0.0
    taken = work.run_seconds + waiting + (0.0 if overlaps else work.pass_seconds)
    python = max(0.0, seconds - taken)
    parts = {"target": work.run_seconds, "draft": work.pass_seconds, "python": python, "waiting": waiting}
    return {name: part / seconds for name, part in parts.items()}


def below_plain(figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Where even the upper end of a ratio's interval is below `LEAST_RATIO`; the control is held to it, too."""
    return [
        {"kind": kind, "configuration": name, "sampling": sampling, **both[sampling]["ratio_to_plain"]}
        for kind, of_kind in figures.items()
        for name, both in of_kind.items()
        if name != PLAIN
        for sampling in SAMPLINGS
        if both[sampling]["ratio_to_plain"]["high"] < LEAST_RATIO
    ]


def compared(written: Sequence[Written]) -> dict[str, Any]:
    """How many texts of each configuration are not that of `plain` for the same prompt and seed."""
    plain = {(w.turn.round, w.turn.prompt, w.turn.sampling): w.text for w in written if w.turn.contestant == PLAIN}
    different = dict.fromkeys((w.turn.contestant for w in written if w.turn.contestant != PLAIN), 0)
    for w in written:
        if w.turn.contestant != PLAIN:
            different[w.turn.contestant] += w.text != plain[w.turn.round, w.turn.prompt, w.turn.sampling]
    return {"compared": len(written) - len(plain), "different": different, "all_equal": not any(different.values())}


def repeated(written: Sequence[Written]) -> dict[str, float]:
    """Of plain's token ids: the share of 8-grams that had occurred before in their text, since text that loops is easy to draft. Empty
    over HTTP, where ids are not seen."""
    plain = [w for w in written if w.turn.contestant == PLAIN and isinstance(w.text, tuple)]
    if not plain:
        return {}
    return {s: repetition([[*map(int, w.text)] for w in plain if w.turn.sampling == s]) for s in SAMPLINGS}
