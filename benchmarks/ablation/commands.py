"""`bench ablation`, `bench drafts` and `bench gain`: options in, reports out.

Promises: options are checked before models are loaded or a server is started; a void run ends with exit status 1.
"""

import pathlib
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Chats, Draft, Dtype, Prompts, PromptsFile, PromptTokens, Rounds, StepTokens, Target, Tokens
from deployments.cli.options import DraftCurve, Json, TargetCurve, TimeScale, errors

QUICK_S, QUICK_TOKENS = 410.0, 36
"""`--quick` ends within 8 minutes, the server's end included; longer texts would leave no time for two prompts."""

Plots = Annotated[pathlib.Path | None, typer.Option(help="Folder for a plot.")]


class Device(StrEnum):
    PACED = "paced"
    CPU = "cpu"


class Workload(StrEnum):
    CODE = "code"
    EDIT = "edit"
    LONG = "long"


def ablation(
    device: Annotated[Device, typer.Option(help="paced: over the full stack, which is started; cpu: in one process.")] = Device.PACED,
    workload: Annotated[Workload, typer.Option(help="code; edit: a text written once more; long: cut draft KV.")] = Workload.CODE,
    configurations: Annotated[str | None, typer.Option(help="With commas; by default those of the setting.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Within 8 minutes: fewer configurations, as many prompts as fit.")] = False,
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    target_curve: TargetCurve = "llama-70b-4xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 8.0,
    threads: Annotated[int | None, typer.Option(help="torch threads: 1 for each replica, with --device cpu 2.", min=1)] = None,
    step_tokens: StepTokens = 32,
    dtype: Dtype = "float32",
    kv_tokens: Annotated[int, typer.Option(help="KV slots of each model, with --device cpu.", min=64)] = 4096,
    prompts: Prompts = 12,
    prompt_tokens: PromptTokens = 64,
    long_tokens: Annotated[int, typer.Option(help="Tokens of a prompt of workload long.", min=1)] = 944,
    tokens: Tokens = 64,
    rounds: Rounds = 1,
    prompts_file: PromptsFile = None,
    chats: Chats = False,
    json_file: Json = None,
    plots: Plots = None,
) -> None:
    """Ways of drafting beside plain decoding: chain, tree, staged, with growth during verification, without a model, merged.

    --json FILE.json holds the figures by configuration; FILE.run.json, beside it, whether the run is void, its settings and control.
    """
    from benchmarks.ablation.bench import AblationOptions, run_ablation
    from benchmarks.ablation.display import plot_ablation, print_ablation
    from benchmarks.harness.contestants import Pair
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.harness.plots import check_folder
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        run_file = json_file.with_suffix(".run.json") if json_file is not None else None
        check_writable(json_file)
        check_writable(run_file)
        check_folder(plots)
        options = AblationOptions(
            workload.value, None if configurations is None else tuple(configurations.split(",")), prompts, prompt_tokens, long_tokens,
            min(tokens, QUICK_TOKENS) if quick else tokens, rounds, quick, prompts_file, QUICK_S if quick else None, chats,
        )  # fmt: skip
        pair = (
            PacedPair(target, draft, target_curve, draft_curve, time_scale, threads or 1, step_tokens, dtype)
            if device is Device.PACED
            else Pair(target, draft, dtype, threads or 2, kv_tokens)
        )
        report = run_ablation(options, pair, console)
        write_json(json_file, report["figures"])
        write_json(run_file, {name: part for name, part in report.items() if name != "figures"})
        if plots:
            plot_ablation(report, plots)
    print_ablation(console, report)
    if report["void"]:
        raise typer.Exit(1)
