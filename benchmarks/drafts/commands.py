"""`bench drafts` and `bench gain`: options in, reports out.

Promises: options are checked before models are loaded.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness.options import Prompts, PromptsFile, PromptTokens, Target, Tokens
from deployments.cli.options import DraftCurve, Json, errors

if TYPE_CHECKING:
    from benchmarks.drafts.bench import Bench
    from benchmarks.drafts.variants import LoadedDraft

GAIN_DRAFTS = ("demo:draft", "demo:draft@layers=1", "demo:draft@noise=0.3", "demo:target@noise=0.1")
"""Drafts of three sizes and four qualities, from the checkpoints in the package."""

GAIN_CURVES = "llama-70b-4xh100,llama-8b-1xh100,measured"

QUICK_PROMPTS, QUICK_TOKENS = 4, 32
"""`--quick`: a sixth of the work."""

Quick = Annotated[bool, typer.Option("--quick", help=f"{QUICK_PROMPTS} prompts of {QUICK_TOKENS} new tokens.")]
Threads = Annotated[int, typer.Option(help="torch threads.", min=1)]
KvTokens = Annotated[int, typer.Option(help="KV slots of each model.", min=64)]
Plots = Annotated[pathlib.Path | None, typer.Option(help="Folder for a plot.")]


@dataclass(frozen=True)
class Inputs:
    """What both commands load; `drafts` as `benchmarks.drafts.variants` reads them."""

    target: str
    drafts: tuple[str, ...]
    target_curve: str
    draft_curve: str
    threads: int
    kv_tokens: int
    prompts: int
    prompt_tokens: int
    tokens: int
    prompts_file: pathlib.Path | None

    @property
    def curves(self) -> list[str]:
        return [name.strip() for name in self.target_curve.split(",")]


def drafts(
    draft: Annotated[list[str], typer.Option(help="A draft: PATH, PATH@layers=N or PATH@noise=X. Once for each candidate.")],
    target: Target = "demo:target",
    target_curve: Annotated[str, typer.Option(help="measured: passes as long as here; or a curve, by name or file.")] = "measured",
    draft_curve: DraftCurve = "draft-0.5b",
    quick: Quick = False,
    threads: Threads = 1,
    kv_tokens: KvTokens = 4096,
    prompts: Prompts = 12,
    prompt_tokens: PromptTokens = 200,
    tokens: Tokens = 64,
    prompts_file: PromptsFile = None,
    json_file: Json = None,
) -> None:
    """Candidate drafts, ranked by the goodput that their acceptance and their passes' time promise, not by acceptance."""
    from benchmarks.drafts.bench import by_acceptance, ranking
    from benchmarks.drafts.tables import print_drafts
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        prompts, tokens = _shortened(quick, prompts, tokens)
        inputs = Inputs(target, tuple(draft), target_curve, draft_curve, threads, kv_tokens, prompts, prompt_tokens, tokens, prompts_file)
        rows, settings = _run(inputs, 1, console)
        report = {"ranking": ranking(rows), "by_acceptance": by_acceptance(rows), "drafts": rows, "settings": settings}
        write_json(json_file, report)
    print_drafts(console, report)


def gain(
    draft: Annotated[list[str] | None, typer.Option(help="A draft: PATH, PATH@layers=N or PATH@noise=X; several times.")] = None,
    target: Target = "demo:target",
    target_curve: Annotated[str, typer.Option(help="With commas; measured: passes as long as here.")] = GAIN_CURVES,
    draft_curve: DraftCurve = "draft-0.5b",
    quick: Quick = False,
    threads: Threads = 1,
    kv_tokens: KvTokens = 4096,
    prompts: Prompts = 12,
    prompt_tokens: PromptTokens = 64,
    tokens: Tokens = 64,
    prompts_file: PromptsFile = None,
    json_file: Json = None,
    plots: Plots = None,
) -> None:
    """How the gain moves with a draft's agreement and with its cost: drafts by target curves, predicted."""
    from benchmarks.drafts.tables import plot_gain, print_gain
    from benchmarks.harness.plots import check_folder
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        check_folder(plots)
        prompts, tokens = _shortened(quick, prompts, tokens)
        inputs = Inputs(
            target, tuple(draft or GAIN_DRAFTS), target_curve, draft_curve, threads, kv_tokens, prompts, prompt_tokens, tokens,
            prompts_file,
        )  # fmt: skip
        rows, settings = _run(inputs, None, console)
        report = {"points": rows, "settings": settings}
        write_json(json_file, report)
        if plots:
            plot_gain(report, plots)
    print_gain(console, report)


def _shortened(quick: bool, prompts: int, tokens: int) -> tuple[int, int]:
    return (min(prompts, QUICK_PROMPTS), min(tokens, QUICK_TOKENS)) if quick else (prompts, tokens)


def _run(inputs: Inputs, most_curves: int | None, console: Console) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows by curve and draft, and the settings. Raises ConfigError naming the option, ModelError."""
    from dataclasses import asdict

    from benchmarks.drafts.bench import run_drafts
    from benchmarks.drafts.latencies import check_curves, timed_on
    from benchmarks.drafts.variants import parse
    from deployments.cli.options import machine
    from drafthouse.errors import ConfigError

    state = machine()
    for text in inputs.drafts:
        parse(text)
    if len(set(inputs.drafts)) < len(inputs.drafts):
        raise ConfigError("--draft: one of them stands there twice")
    if most_curves is not None and len(inputs.curves) > most_curves:
        raise ConfigError(f"--target-curve {inputs.target_curve}: one is enough; `bench gain` takes several")
    check_curves(inputs.curves, inputs.draft_curve)
    bench, loaded = _load(inputs, console)
    timed = [each for name in inputs.curves for each in timed_on(name, bench.target, loaded, inputs.draft_curve)]
    rows = run_drafts(bench, timed, console)
    return rows, {**asdict(inputs), "prompts_file": str(inputs.prompts_file or "held-out prompts of the package"), "machine": state}


def _load(inputs: Inputs, console: Console) -> "tuple[Bench, Sequence[LoadedDraft]]":
    from benchmarks.ablation.bench import SAMPLINGS, check_length
    from benchmarks.drafts.bench import Bench
    from benchmarks.drafts.variants import load_draft
    from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
    from drafthouse.checkpoints.model_path import model_path
    from drafthouse.config.serving import ModelConfig, ServingConfig
    from drafthouse.engine.loader import load
    from drafthouse.errors import ConfigError
    from drafthouse.policy.vocabularies import agree

    prompts = encode(load_tokenizer(model_path(inputs.target)), load_texts(inputs.prompts_file, inputs.prompts), inputs.prompt_tokens)
    config = ModelConfig(path=inputs.target, threads=inputs.threads, kv_tokens=inputs.kv_tokens, prefix_cache="off")  # prompts repeat
    with console.status("loading the models"):
        target = load(config)
        loaded = [load_draft(text, config) for text in inputs.drafts]
    check_length(prompts, inputs.tokens, [("--target", inputs.target, target.context)])
    for draft in loaded:
        check_length(prompts, inputs.tokens, [("--draft", draft.name, draft.model.context)])
        if not agree(draft.model.vocabulary, target.vocabulary):
            raise ConfigError(f"--draft {draft.name}: its tokenizer has another vocabulary than that of {inputs.target}")
    return Bench(target, prompts, inputs.tokens, SAMPLINGS, ServingConfig()), loaded
