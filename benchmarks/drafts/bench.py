"""`drafthouse bench drafts` and `bench gain`: which draft is worth most, by predicted goodput.

A draft that is hit more often may still lose, since each of its passes takes longer (Decoding Speculative
Decoding, arXiv 2402.01528). So each draft runs with the target, real models and real policy, in the
virtual time of latency models (`simulator.virtual_pair`), and drafts are ranked by tokens per second there.

Promises: all drafts meet the same prompts with the same seeds; acceptance is measured on the same texts of the target.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.ablation.figures import Generation, Work
from benchmarks.drafts.acceptance import acceptance, hits
from benchmarks.drafts.variants import LoadedDraft
from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.samples import Sample, pick, ratio, tokens_per_second, tokens_per_step
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.policy.latency import LatencyModel
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.virtual_pair import ModelPair

PLAIN = "plain"
WARM_UP_RUNS = 2

Texts = dict[tuple[str, int], list[int]]
"""The target's text by sampling and prompt."""


@dataclass(frozen=True)
class Bench:
    """What all drafts meet. `config`: how they draft and how the target verifies."""

    target: LoadedModel
    prompts: Sequence[list[int]]
    tokens: int
    samplings: Mapping[str, SamplingParams]
    config: ServingConfig


@dataclass(frozen=True)
class Timed:
    """A draft with the times of its passes and the target's."""

    draft: LoadedDraft
    latency: LatencyModel
    target_latency: LatencyModel
    curve: str

    @property
    def cost_ratio(self) -> float:
        """A draft's pass over one node to a plain step of the target."""
        return self.latency.seconds(1, 0) / self.target_latency.seconds(1, 0)


def texts_of(bench: Bench, timed: Timed) -> tuple[Texts, list[Sample]]:
    """The target's own texts, and plain decoding in the time of its latency model."""
    pair = ModelPair(bench.target, timed.draft.model, timed.target_latency, timed.latency, bench.config)
    texts: Texts = {}
    samples = []
    for sampling, prompt in itertools.product(SAMPLINGS, range(len(bench.prompts))):
        texts[sampling, prompt], generation = _generate(bench, pair, PLAIN, "off", sampling, prompt)
        samples.append(generation.sample)
    return texts, samples


def run_draft(bench: Bench, timed: Timed) -> list[Generation]:
    """A warm-up in which calibration learns, then each prompt once with each sampling."""
    pair = ModelPair(bench.target, timed.draft.model, timed.target_latency, timed.latency, bench.config)
    for sampling, prompt in itertools.product(SAMPLINGS, range(min(WARM_UP_RUNS, len(bench.prompts)))):
        _generate(bench, pair, "warm-up", "auto", sampling, prompt)
    turns = itertools.product(SAMPLINGS, range(len(bench.prompts)))
    return [_generate(bench, pair, timed.draft.name, "auto", sampling, prompt)[1] for sampling, prompt in turns]


def _generate(bench: Bench, pair: ModelPair, name: str, mode: str, sampling: str, prompt: int) -> tuple[list[int], Generation]:
    request = GenerateRequest(
        request_id=f"{name} {sampling} {prompt}", attempt=1, prompt=tuple(bench.prompts[prompt]), delivered=(),
        sampling=bench.samplings[sampling], seed=prompt, max_tokens=bench.tokens, stop_tokens=(), speculation=Speculation(mode),
    )  # fmt: skip
    before, started = _counted(pair), pair.world.now
    [output] = pair.generate([request]).values()
    seconds = pair.world.now - started
    pair.settle()
    work = _counted(pair) - before
    return output, Generation(Sample(name, sampling, prompt, len(output), seconds, round(work.steps)), seconds, work)


def _counted(pair: ModelPair) -> Work:
    verifier, drafter = pair.verifier.totals, pair.drafter.totals
    return Work(
        committed=verifier.committed, steps=verifier.steps, verified=verifier.verified, wait_seconds=verifier.wait_seconds,
        passes=drafter.passes, pass_seconds=drafter.pass_seconds, judged=drafter.judged, first=drafter.first,
    )  # fmt: skip


def row_of(timed: Timed, generations: Sequence[Generation], plain: Sequence[Sample], accepted: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one draft on one pair of latency models; `goodput` in tokens per second over both samplings."""
    samples = [g.sample for g in generations]
    passes = sum(g.work.passes for g in generations)
    row: dict[str, Any] = {
        "draft": timed.draft.name, "parameters": timed.draft.parameters, "curve": timed.curve, "cost_ratio": timed.cost_ratio,
        "ms_per_pass": 1e3 * sum(g.work.pass_seconds for g in generations) / max(1.0, passes),
        "draft_passes_per_token": passes / sum(s.tokens for s in samples),
        "goodput": tokens_per_second(samples), "gain": tokens_per_second(samples) / tokens_per_second(plain),
    }  # fmt: skip
    for sampling in SAMPLINGS:
        own = pick(samples, timed.draft.name, sampling)
        gain = ratio(own, pick(plain, PLAIN, sampling))
        row[sampling] = {
            **accepted[sampling], "tokens_per_second": tokens_per_second(own), "tokens_per_step": tokens_per_step(own),
            "ratio_to_plain": asdict(gain),
        }  # fmt: skip
    return row


def accepted_by(bench: Bench, draft: LoadedDraft, texts: Texts) -> dict[str, Any]:
    """Acceptance of one draft on the target's texts, by sampling."""
    return {
        sampling: acceptance(
            [hits(draft.model, prompt, texts[sampling, i], bench.samplings[sampling], seed=i) for i, prompt in enumerate(bench.prompts)]
        )
        for sampling in SAMPLINGS
    }


def run_drafts(bench: Bench, timed: Sequence[Timed], console: Console) -> list[dict[str, Any]]:
    """A row for each, in the order given. Plain decoding is run once for each target latency model."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    plains: dict[str, tuple[Texts, list[Sample]]] = {}
    accepted: dict[str, dict[str, Any]] = {}
    rows = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(timed))
        for each in timed:
            progress.update(task, description=f"{each.draft.name}, {each.curve}")
            if each.curve not in plains:
                plains[each.curve] = texts_of(bench, each)
            texts, plain = plains[each.curve]
            if each.draft.name not in accepted:
                accepted[each.draft.name] = accepted_by(bench, each.draft, texts)
            rows.append(row_of(each, run_draft(bench, each), plain, accepted[each.draft.name]))
            progress.advance(task)
    return rows


def ranking(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of drafts, the highest goodput first."""
    return [row["draft"] for row in sorted(rows, key=lambda row: -row["goodput"])]


def by_acceptance(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of drafts, the one whose first choice is right most often first: what the ranking would be without latency."""
    return [row["draft"] for row in sorted(rows, key=lambda row: -sum(row[s]["first"] for s in SAMPLINGS))]
