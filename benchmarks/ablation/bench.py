"""`drafthouse bench ablation`: what each way of drafting is worth, all in one run, interleaved.

Promises: options are checked before models are loaded or a server is started.
"""

import pathlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from benchmarks.ablation.configurations import CONFIGURATIONS, by_default, chosen
from benchmarks.ablation.figures import Generation, ablation_report
from benchmarks.ablation.schedule import Schedule
from benchmarks.ablation.workloads import FILE_TOKENS, edited, headers, own_texts
from benchmarks.ablation.workloads import prompts as workload_prompts
from benchmarks.harness.contestants import Pair
from benchmarks.harness.paced_server import PacedPair
from benchmarks.harness.prompts import encode_chats, load_texts, load_tokenizer
from benchmarks.harness.report import Report
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.curve_files import load_curve
from drafthouse.engine.model_limits import read_limits
from drafthouse.errors import ConfigError
from drafthouse.sampling import SamplingParams

SAMPLED_TOP_K = 50
"""As in the staged paper's table (arXiv 2308.04623)."""

SAMPLINGS = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=1.0, top_k=SAMPLED_TOP_K)}


@dataclass(frozen=True)
class AblationOptions:
    """`configurations`: None for those of the setting; `prompt_tokens` cuts prompts of workload `code`; `budget_s`: prompts are run as
    long as another one fits, from when the options were made; `chats`: the prompts are what users say."""

    workload: str
    configurations: tuple[str, ...] | None
    prompts: int
    prompt_tokens: int | None
    long_tokens: int
    tokens: int
    rounds: int
    quick: bool = False
    prompts_file: pathlib.Path | None = None
    budget_s: float | None = None
    chats: bool = False


def run_ablation(options: AblationOptions, pair: Pair | PacedPair, console: Console) -> Report:
    """A `Pair` runs in this process, a `PacedPair` over the full stack. Raises ConfigError naming the option, ModelError, BenchError."""
    started, state = time.monotonic(), machine()
    paced = isinstance(pair, PacedPair)
    names = _names(options, overlap=paced)
    curves = _curves(pair) if isinstance(pair, PacedPair) else {}
    prompts = _prompts(options, pair, console)
    deadline = started + options.budget_s if options.budget_s is not None else None
    more: Report = {}
    if isinstance(pair, PacedPair):
        from benchmarks.ablation import paced as full_stack

        generations, more = full_stack.measure(pair, names, prompts, options.tokens, SAMPLINGS, options.rounds, deadline, console)
    else:
        from benchmarks.ablation import cpu

        schedule = Schedule(names, len(prompts), options.rounds, deadline)
        generations = [cpu.measure(pair, names, prompts, options.tokens, SAMPLINGS, schedule, console)]
    report = ablation_report(generations, names)
    report["settings"] = _settings(options, pair, names) | {
        "paced": paced, "curves": curves, "machine": state, "prompts_run": _prompts_run(generations),
    }  # fmt: skip
    return {"void": False, **report, **more}


def _prompts_run(groups: Sequence[Sequence[Generation]]) -> int:
    """By all configurations; a group with time left may have run more."""
    return min(len({generation.sample.prompt for generation in group}) for group in groups)


def _names(options: AblationOptions, overlap: bool) -> tuple[str, ...]:
    if options.configurations is not None:
        return chosen(options.configurations, overlap)
    return by_default(overlap, options.workload == "long", options.quick)


def _curves(pair: PacedPair) -> dict[str, Any]:
    return {"target": asdict(load_curve(pair.target_curve)), "draft": asdict(load_curve(pair.draft_curve))}


def _prompts(options: AblationOptions, pair: Pair | PacedPair, console: Console) -> list[list[int]]:
    tokenizer = load_tokenizer(model_path(pair.target))
    texts = load_texts(options.prompts_file, options.prompts)
    encode = lambda text: list(tokenizer(text).input_ids)  # noqa: E731
    if options.chats and options.workload != "code":
        raise ConfigError(f"--chats: the prompts of workload {options.workload} are no chats; leave --workload out")
    if options.chats:
        prompts = encode_chats(tokenizer, texts)
    elif options.workload == "edit":
        begun = headers(texts, encode)
        with console.status("the target writes the files that are to be edited"):
            files = own_texts(ModelConfig(path=pair.target, threads=pair.threads), begun, FILE_TOKENS)
        prompts = [edited(header, file, encode) for header, file in zip(begun, files, strict=True)]
    else:
        prompts = workload_prompts(options.workload, texts, encode, options.prompt_tokens, options.long_tokens)
    check_length(prompts, options.tokens, _contexts(pair))
    return prompts


def _contexts(pair: Pair | PacedPair) -> list[tuple[str, str, int]]:
    return [(option, path, read_limits(path).context_tokens) for option, path in (("--target", pair.target), ("--draft", pair.draft))]


def check_length(prompts: Sequence[Sequence[int]], tokens: int, contexts: Sequence[tuple[str, str, int]]) -> None:
    """`contexts`: option, path, length in tokens. Raises ConfigError where the longest prompt with its text exceeds one."""
    longest = max(map(len, prompts))
    for option, path, context in contexts:
        if longest + tokens > context:
            raise ConfigError(
                f"--tokens {tokens}: with the longest prompt of {longest} tokens it exceeds {context}, the context of {option} {path}"
            )


def _settings(options: AblationOptions, pair: Pair | PacedPair, names: Sequence[str]) -> Report:
    return {
        **asdict(pair), **asdict(options), "prompts_file": str(options.prompts_file or "held-out prompts of the package"),
        "configurations": {name: {"meaning": c.meaning, "sections": c.sections, "mode": c.mode, "on": c.on or name}
                           for name, c in CONFIGURATIONS.items() if name in names},
        "samplings": {name: asdict(sampling) for name, sampling in SAMPLINGS.items()},
        "ratio": "total tokens/s over prompts and rounds; 95 % interval: bootstrap over prompts",
    }  # fmt: skip
