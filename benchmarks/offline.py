"""`drafthouse bench offline`: one process, one stream, ours beside transformers, interleaved.

Promises: all contestants start from the same prompts, generate equally many tokens (none stops at an
end-of-text token), in one dtype and with one number of threads, and are timed from the prompt's ids
to the last token's id. Warm-up is not timed.

What no timing says: greedy texts of ours and of transformers are compared, and each that differs is
judged by the oracle of `benchmarks.harness.divergence`.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from benchmarks.harness.contestants import PROMPT_LOOKUP_TOKENS, SAMPLING, Contestant, Pair, Transformers, load_stock, ours
from benchmarks.harness.divergence import explain, float64_twin
from benchmarks.harness.interleave import SAMPLINGS, turns
from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from benchmarks.harness.report import Report, build_report
from benchmarks.harness.samples import Sample
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.demo_models.inflate import LABEL
from drafthouse.engine.model_limits import read_limits
from drafthouse.errors import ConfigError

OURS, CONTROL, PLAIN = "ours", "ours again", "ours without speculation"
STOCK, ASSISTED, LOOKUP = "transformers", "transformers assisted", "transformers prompt lookup"
RATIOS = {
    "ours_vs_transformers_plain": (OURS, STOCK),
    "ours_vs_transformers_assisted": (OURS, ASSISTED),
    "ours_vs_transformers_prompt_lookup": (OURS, LOOKUP),
    "ours_vs_plain": (OURS, PLAIN),
    "plain_vs_transformers_plain": (PLAIN, STOCK),
}
WARM_UP_RUNS, WARM_UP_TOKENS = 2, 24


@dataclass(frozen=True)
class OfflineOptions:
    pair: Pair
    prompts: int
    tokens: int
    rounds: int
    prompts_file: pathlib.Path | None = None


def run_offline(options: OfflineOptions, console: Console) -> Report:
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded."""
    state = machine()
    tokenizer = load_tokenizer(model_path(options.pair.target))
    prompts = encode(tokenizer, load_texts(options.prompts_file, options.prompts))
    _check_length(options, prompts)
    transformers.utils.logging.disable_progress_bar()
    with console.status("loading the models"):
        speculating, plain = ours(options.pair)
        stock = load_stock(options.pair.target, options.pair.dtype)
        draft = load_stock(options.pair.draft, options.pair.dtype)
    contestants: dict[str, Contestant] = {
        OURS: speculating, CONTROL: speculating, PLAIN: plain, STOCK: Transformers(stock),
        ASSISTED: Transformers(stock, assistant_model=draft),
        LOOKUP: Transformers(stock, prompt_lookup_num_tokens=PROMPT_LOOKUP_TOKENS),
    }  # fmt: skip
    samples, texts = _measure(options, contestants, prompts, console)
    report = build_report(samples, list(contestants), RATIOS, (CONTROL, OURS))
    report["greedy_texts"] = compare_texts(texts, prompts, stock)
    report["settings"] = _settings(options, stock, draft) | {"machine": state}
    return report


def _check_length(options: OfflineOptions, prompts: Sequence[Sequence[int]]) -> None:
    longest = max(map(len, prompts))
    for option, path in (("--target", options.pair.target), ("--draft", options.pair.draft)):
        context = read_limits(path).context_tokens
        if longest + options.tokens > min(context, options.pair.kv_tokens):
            raise ConfigError(
                f"--tokens {options.tokens}: with the longest prompt of {longest} tokens it exceeds"
                f" {min(context, options.pair.kv_tokens)}, the context of {option} {path}"
            )


Texts = dict[str, dict[int, list[int]]]
"""Greedy output by contestant and prompt."""


def _measure(
    options: OfflineOptions, contestants: Mapping[str, Contestant], prompts: Sequence[list[int]], console: Console
) -> tuple[list[Sample], Texts]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    plan = list(turns(list(contestants), len(prompts), options.rounds))
    samples: list[Sample] = []
    texts: Texts = {name: {} for name in contestants}
    with Progress(*columns, console=console, transient=True) as progress:
        warm_up = progress.add_task("warming up", total=len(contestants) * len(SAMPLINGS))
        for contestant in contestants.values():
            for sampling in SAMPLINGS:
                for seed in range(WARM_UP_RUNS):
                    contestant.generate(prompts[seed % len(prompts)], min(options.tokens, WARM_UP_TOKENS), sampling, seed)
                progress.advance(warm_up)
        task = progress.add_task("measuring", total=len(plan))
        for turn in plan:
            progress.update(task, description=f"{turn.contestant}, {turn.sampling}")
            started = time.perf_counter()
            output = contestants[turn.contestant].generate(prompts[turn.prompt], options.tokens, turn.sampling, turn.seed)
            seconds = time.perf_counter() - started
            if len(output.tokens) != options.tokens:
                raise AssertionError(f"{turn.contestant} generated {len(output.tokens)} tokens, not {options.tokens}")
            samples.append(Sample(turn.contestant, turn.sampling, turn.prompt, options.tokens, seconds, output.target_passes))
            if turn.sampling == "greedy":
                texts[turn.contestant][turn.prompt] = output.tokens
            progress.advance(task)
    return samples, texts


def compare_texts(texts: Texts, prompts: Sequence[Sequence[int]], stock: PreTrainedModel) -> dict[str, Any]:
    """Greedy texts of each contestant beside those of transformers' plain `generate`: equal, or why not."""
    twin: PreTrainedModel | None = None
    result: dict[str, Any] = {}
    for name, mine in texts.items():
        if name == STOCK:
            continue
        counts = {"compared": 0, "equal": 0, "explained": 0, "unexplained": 0}
        for prompt, tokens in mine.items():
            theirs = texts[STOCK][prompt]
            counts["compared"] += 1
            if tokens == theirs:
                counts["equal"] += 1
                continue
            twin = twin or float64_twin(stock)
            found = explain(stock, twin, prompts[prompt], SAMPLING["greedy"], 0, tokens, theirs)
            counts["explained" if found is not None and found.explained else "unexplained"] += 1
        result[name] = counts
    return result


def _settings(options: OfflineOptions, target: PreTrainedModel, draft: PreTrainedModel) -> dict[str, Any]:
    return {
        "target": _described(options.pair.target, target), "draft": _described(options.pair.draft, draft),
        "dtype": options.pair.dtype, "threads": options.pair.threads,
        "prompts": options.prompts, "prompts_file": str(options.prompts_file or "held-out prompts of the package"),
        "tokens": options.tokens, "rounds": options.rounds, "torch": torch.__version__, "transformers": transformers.__version__,
        "sampled": asdict(SAMPLING["sampled"]), "prompt_lookup_num_tokens": PROMPT_LOOKUP_TOKENS,
        "ratio": "total tokens/s over prompts and rounds, prompts included; 95 % interval: bootstrap over prompts",
    }  # fmt: skip


def _described(path: str, model: PreTrainedModel) -> dict[str, Any]:
    """`inflated_from` is there for checkpoints made by `drafthouse inflate`: their weights cost, but mean no more than the source's."""
    label = getattr(model.config, LABEL, None)
    described = {"path": path, "parameters": model.num_parameters()}
    return described if label is None else {**described, "inflated_from": label}


def title(report: Report) -> str:
    """The table's first line: what ran, and whether the target is inflated."""
    s = report["settings"]
    target, draft = s["target"], s["draft"]
    inflated = f", inflated from {target['inflated_from']}" if "inflated_from" in target else ""
    return (
        f"target {target['parameters'] / 1e6:.0f}M{inflated}, draft {draft['parameters'] / 1e6:.1f}M, {s['dtype']}, {s['threads']} threads,"
        f" {s['prompts']} prompts x {s['tokens']} tokens x {s['rounds']} rounds"
    )


def notes(report: Report) -> list[str]:
    """Lines below the tables: whose greedy text is transformers' own."""
    lines = []
    for name, counts in report["greedy_texts"].items():
        if counts["equal"] == counts["compared"]:
            continue
        lines.append(
            f"{name}: {counts['equal']} of {counts['compared']} greedy texts equal transformers' plain; "
            f"{counts['explained']} differ from a near-tie on, [bold]{counts['unexplained']}[/] for no reason known"
        )
    return lines or ["all greedy texts are equal"]
