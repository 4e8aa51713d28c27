"""`bench scaling`: options in, report out.

Promises: options are checked before a server is started; a void run, or a pool that did not scale both ways, means exit status 1.
"""

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Draft, Prompts, PromptTokens, StepTokens, Target, Threads
from benchmarks.load.commands import OutputTokens, Plots, Seed, Sequences, check_plots, paced_setup
from deployments.cli.options import DraftCurve, Json, TargetCurve, TimeScale, errors


def scaling(
    in_flight: Annotated[str, typer.Option(help="Requests in flight, phase by phase, with commas.")] = "2,6,14,6,2,0,2",
    seconds: Annotated[float, typer.Option(help="Of each phase.")] = 40.0,
    most_verifiers: Annotated[int, typer.Option(help="Verifiers at most.", min=2, max=16)] = 2,
    most_drafters: Annotated[int, typer.Option(help="Drafters at most.", min=2, max=16)] = 3,
    sessions: Annotated[int, typer.Option(help="Sessions of one drafter at most.", min=1)] = 3,
    workload: Annotated[str, typer.Option(help="code or varied.")] = "code",
    tokens: OutputTokens = "16-32",
    sequences: Sequences = 8,
    prompts: Prompts = 48,
    prompt_tokens: PromptTokens = 64,
    seed: Seed = 0,
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    target_curve: TargetCurve = "llama-8b-1xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 24.0,
    threads: Threads = 1,
    step_tokens: StepTokens = 48,
    json_file: Json = None,
    plots: Plots = None,
) -> None:
    """The load steps up and down on a paced server whose pools scale by themselves: both ways, without a failed request."""
    from benchmarks.harness.overruns import print_overruns
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.load.scaling import ScalingOptions, print_scaling, run_scaling, scaled_both_ways
    from deployments.cli.options import check_writable, write_json
    from simulator.policies import WORKLOADS, chosen, counts, lengths, positive

    console = Console()
    with errors():
        check_writable(json_file)
        check_plots(plots)
        options = ScalingOptions(
            counts("--in-flight", in_flight, least=0), positive("--seconds", seconds), most_verifiers, most_drafters, sessions,
            chosen("--workload", workload, WORKLOADS)[0], lengths("--tokens", tokens), prompts, seed,
        )  # fmt: skip
        pair = PacedPair(target, draft, target_curve, draft_curve, time_scale, threads, step_tokens)
        setup = paced_setup(pair, 1, sequences, prompt_tokens)
        report = run_scaling(options, setup, console)
        write_json(json_file, report)
        if plots:
            from benchmarks.harness.plots import plot_scaling

            plot_scaling(report, plots)
    print_scaling(console, report)
    print_overruns(console, report)
    if report["void"] or not scaled_both_ways(report):
        raise typer.Exit(1)
