"""The report and model card of a finished draft, as Markdown: what it agrees on, what it costs, what it should bring.

Promises: every figure was measured in this run or an earlier one into the same folder, or is predicted from those that were; what was
not measured is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.distillation.agreement import Agreement, LevelAgreement
from drafthouse.distillation.measured_pace import Latencies
from drafthouse.distillation.options import DistillOptions
from drafthouse.distillation.predicted_gain import CONTEXT, Pace, predicted_gain
from drafthouse.distillation.sizes import SHARE, Size

FILE = "REPORT.md"


@dataclass(frozen=True, slots=True)
class Moment:
    """Of training: minutes spent, tokens learned, decayed loss in nats, agreement on some of the held-out text."""

    minutes: float
    rows: int
    loss: float
    first: float


@dataclass(frozen=True, slots=True)
class Findings:
    """`latencies` or why there are none; sizes that were `tried`; texts and tokens that the target wrote, and the seconds that took."""

    layers: int
    head_tokens: int
    vocab_size: int
    parameters: int
    agreement: Agreement
    history: Sequence[Moment]
    latencies: Latencies | str
    tried: Sequence[Size]
    texts: int
    text_tokens: int
    text_seconds: float
    seconds: float


def report(options: DistillOptions, found: Findings) -> str:
    parts = [
        _head(options, found),
        _agreement(found.agreement, options.hidden),
        _gain(options, found),
        *_sizes(found.tried),
        _training(found),
    ]
    return "\n".join(parts)


def _head(options: DistillOptions, found: Findings) -> str:
    reads = (
        "It reads the target's last hidden states, which a verifier sends it, and its own where it drafts further; without them it "
        "drafts from tokens alone."
        if options.hidden
        else "It reads tokens alone."
    )
    return f"""# A draft for {options.target}

{found.layers} of the target's layers ({found.parameters / 1e6:.1f} million parameters beside the target's embeddings, which it uses), and a
head of {found.head_tokens:,} of {found.vocab_size:,} tokens: others it never drafts. {reads} It is good for drafting only: the target
decides every token, so the draft changes the speed of a text and not the text. It is made of the target's weights and the target's own
text: the target's licence holds for it.

Made by: `drafthouse distill --target {options.target}{" --hidden" if options.hidden else ""} --minutes {options.minutes:g}`.
"""


def _agreement(agreement: Agreement, hidden: bool) -> str:
    rows = [
        f"| {number} | {kind} | {' | '.join(f'{share:.3f}' for share in shares)} | {sum(shares):.3f} |"
        for number, level in enumerate(agreement.levels, start=1)
        for kind, shares in (("greedy", level.greedy), ("temperature 1", level.sampled))
    ]
    deeper = (
        "Level 1 reads the target's states up to the token before it, level 2 the draft's own for the last token, and so on."
        if hidden
        else "A draft that reads tokens alone agrees as often at every level."
    )
    return f"""## Agreement

On {agreement.levels[0].rows:,} places of text that the target wrote and the draft did not learn from: how often the target's choice is the
draft's first, second ... At temperature 1 both choose with the same noise. {deeper} Loss {agreement.loss:.3f} nats.

| level | | first | second | third | fourth | among four |
|---|---|---|---|---|---|---|
""" + "\n".join([*rows, ""])


def _gain(options: DistillOptions, found: Findings) -> str:
    if isinstance(found.latencies, str):
        return f"## Predicted gain\n\nNot predicted: {found.latencies}\n"
    target, draft = found.latencies.target, found.latencies.draft
    rows = []
    for name, pick in (("greedy", _greedy), ("temperature 1", _sampled)):
        for placement, shared in (("the same cores", True), ("cores of its own", False)):
            gain = predicted_gain([pick(level) for level in found.agreement.levels], Pace(target, draft, shared, options.hidden))
            rows.append(f"| {name} | {placement} | {gain.speed_up:.2f} | {gain.tokens_per_step:.2f} | {gain.nodes} | {gain.depth} |")
    costs = ", ".join(f"{n}: {target.seconds(n, CONTEXT) * 1e3:.2f} and {draft.seconds(n, CONTEXT) * 1e3:.2f}" for n in (1, 4, 8, 16))
    return f"""## Predicted gain

Milliseconds of the target's step and of the draft's pass over {CONTEXT} cached tokens, by tokens in it, in {options.dtype} on
{options.threads} threads: {costs}. One sequence; prompts, the wire and lookups are left out.

| text | draft runs on | speed-up | tokens a step | nodes | depth |
|---|---|---|---|---|---|
""" + "\n".join([*rows, ""])


def _greedy(level: LevelAgreement) -> tuple[float, ...]:
    return level.greedy


def _sampled(level: LevelAgreement) -> tuple[float, ...]:
    return level.sampled


def _sizes(tried: Sequence[Size]) -> list[str]:
    if not tried:
        return []
    rows = [
        f"| {size.layers} | {size.first:.3f} | {size.pass_s * 1e3:.2f} | {size.shared_cores:.2f} | {size.own_cores:.2f} |" for size in tried
    ]
    return [
        f"""## Sizes tried

Each learned for {SHARE:.0%} of the time to learn; the one that promises most was made.

| layers | agreement | ms a pass | speed-up on the same cores | on cores of its own |
|---|---|---|---|---|
"""
        + "\n".join([*rows, ""])
    ]


def _training(found: Findings) -> str:
    rows = [f"| {each.minutes:.1f} | {each.rows:,} | {each.loss:.3f} | {each.first:.3f} |" for each in found.history]
    return f"""## Training

The target wrote {found.texts:,} texts ({found.text_tokens:,} tokens with their prompts) in {found.text_seconds / 60:.1f} minutes; the draft
learned from them for {found.seconds / 60:.1f} minutes. Agreement below is greedy, first choice, on a part of the held-out text.

| minutes | tokens learned | loss, nats | agreement |
|---|---|---|---|
""" + "\n".join([*rows, ""])
