"""`bench load`, `bench load-steps` and `bench off-cost`: options in, reports out.

Promises: options are checked before a server is started; a void run ends with exit status 1.
"""

import pathlib
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Chats, Draft, Dtype, Prompts, PromptsFile, PromptTokens, Rounds, StepTokens, Target, Threads
from deployments.cli.options import DraftCurve, Json, TargetCurve, TimeScale, errors

if TYPE_CHECKING:
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.load.server import PacedSetup

QUICK_S = 440.0
"""`--quick` ends within 8 minutes, the server's start and end included."""

QUICK = ("0.2,0.7,1", 7.0, 2, "24-40")
THOROUGH = ("0.2,0.7,1,1.3", 60.0, 4, "32-64")
"""Loads, seconds at each place for each policy, segments, output tokens."""

Crowd = Annotated[
    int, typer.Option(help="Each sequence stands for so many: multiplies what tokens and KV add to a step in both curves.", min=1)
]
Sequences = Annotated[int, typer.Option(help="Sequences in one step; so many in flight saturate the server.", min=1, max=256)]
OutputTokens = Annotated[str, typer.Option("--tokens", help="Output tokens of a request: a count, or a range to draw from.")]
Seed = Annotated[int, typer.Option(help="Of the traces.", min=0)]
Plots = Annotated[pathlib.Path | None, typer.Option(help="Folder for plots.")]


def load(
    url: Annotated[str | None, typer.Option(help="A running server, as it is; by default a paced one is started.")] = None,
    policies: Annotated[str, typer.Option(help="With commas.")] = "auto,auto again,off,chain3,tree,batch-table",
    workloads: Annotated[str, typer.Option(help="With commas.")] = "code,varied",
    loads: Annotated[str | None, typer.Option(help="Multiples of off's saturation rate, with commas.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Of arrivals, at each load and workload for each policy.")] = None,
    segments: Annotated[int | None, typer.Option(help="Parts of the trace; policies take turns on each.", min=2)] = None,
    saturation: Annotated[float | None, typer.Option(help="Requests per second that saturate off; by default measured.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Everything within 8 minutes, in short.")] = False,
    tokens: Annotated[str | None, typer.Option(help="Output tokens of a request: a count, or a range to draw from.")] = None,
    sequences: Sequences = 8,
    prompts: Prompts = 48,
    prompt_tokens: PromptTokens = 64,
    prompts_file: PromptsFile = None,
    chats: Chats = False,
    seed: Seed = 0,
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    dtype: Dtype = "float32",
    target_curve: TargetCurve = "llama-8b-1xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 8.0,
    crowd: Crowd = 1,
    threads: Threads = 1,
    step_tokens: StepTokens = 48,
    json_file: Json = None,
    plots: Plots = None,
    record: Annotated[
        pathlib.Path | None, typer.Option(help="File for requests and acceptance traces, as `simulate` reads it; implies --model-alone.")
    ] = None,
    model_alone: Annotated[
        bool, typer.Option("--model-alone", help="Nothing drafts beside the draft model: policies then differ in how much alone.")
    ] = False,
) -> None:
    """Many clients at once, at several loads: auto beside off and fixed policies, on the same traces."""
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.load.bench import Destination, LoadOptions, run_load
    from benchmarks.load.display import print_load
    from benchmarks.load.recording import check_recording, write_recording
    from deployments.cli.options import check_writable, write_json
    from drafthouse.errors import ConfigError
    from simulator.policies import POLICIES, WORKLOADS, chosen, lengths, numbers, positive

    console = Console()
    default_loads, default_seconds, default_segments, default_tokens = QUICK if quick else THOROUGH
    with errors(), ExitStack() as stack:
        check_writable(json_file)
        check_recording(record, url)
        if url and model_alone:
            raise ConfigError("--model-alone: what drafts on the server at --url is in its own config")
        check_plots(plots)
        options = LoadOptions(
            policies=chosen("--policies", policies, POLICIES), workloads=chosen("--workloads", workloads, WORKLOADS),
            loads=numbers("--loads", loads or default_loads),
            seconds=positive("--seconds", default_seconds if seconds is None else seconds),
            segments=segments or default_segments, tokens=lengths("--tokens", tokens or default_tokens),
            in_flight=sequences, seed=seed, prompts=prompts,
            saturation=None if saturation is None else positive("--saturation", saturation), prompts_file=prompts_file,
            budget_s=QUICK_S if quick else None, model_alone=model_alone or record is not None,
        )  # fmt: skip
        pair = PacedPair(target, draft, target_curve, draft_curve, time_scale, threads, step_tokens, dtype, chats)
        setup = paced_setup(pair, crowd, sequences, prompt_tokens)
        destination = Destination(None, url) if url else Destination(setup)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drafthouse-trace-"))) if record else None
        report, blocks = run_load(options, destination, folder, console)
        write_json(json_file, report)
        if record and folder:
            write_recording(record, blocks, folder)
        if plots:
            from benchmarks.harness.plots import plot_latency

            plot_latency(report, plots)
    print_load(console, report)
    if report["void"]:
        raise typer.Exit(1)


def load_steps(
    in_flight: Annotated[str, typer.Option(help="Requests in flight, phase by phase, with commas.")] = "1,8,1,8,1",
    seconds: Annotated[float, typer.Option(help="Of each phase.")] = 12.0,
    workload: Annotated[str, typer.Option(help="code or varied.")] = "code",
    tokens: OutputTokens = "12-24",
    sequences: Sequences = 8,
    prompts: Prompts = 48,
    prompt_tokens: PromptTokens = 64,
    seed: Seed = 0,
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    target_curve: TargetCurve = "llama-8b-1xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 8.0,
    crowd: Crowd = 1,
    threads: Threads = 1,
    step_tokens: StepTokens = 48,
    json_file: Json = None,
    plots: Plots = None,
) -> None:
    """The load steps up and down during one run of policy auto, on a paced server: how fast depth follows, and whether it stays."""
    from benchmarks.harness.overruns import print_overruns
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.load.steps import StepsOptions, print_steps, run_steps
    from deployments.cli.options import check_writable, write_json
    from simulator.policies import WORKLOADS, chosen, counts, lengths, positive

    console = Console()
    with errors():
        check_writable(json_file)
        check_plots(plots)
        options = StepsOptions(
            counts("--in-flight", in_flight), positive("--seconds", seconds), chosen("--workload", workload, WORKLOADS)[0],
            lengths("--tokens", tokens), prompts, seed,
        )  # fmt: skip
        pair = PacedPair(target, draft, target_curve, draft_curve, time_scale, threads, step_tokens)
        setup = paced_setup(pair, crowd, sequences, prompt_tokens)
        report = run_steps(options, setup, console)
        write_json(json_file, report)
        if plots:
            from benchmarks.harness.plots import plot_steps

            plot_steps(report, plots)
    print_steps(console, report)
    print_overruns(console, report)
    if report["void"]:
        raise typer.Exit(1)


def off_cost(
    rounds: Rounds = 6,
    requests: Annotated[int, typer.Option(help="In each block.", min=1, max=10000)] = 32,
    tokens: OutputTokens = "16-32",
    sequences: Sequences = 8,
    prompts: Prompts = 48,
    prompt_tokens: PromptTokens = 64,
    seed: Seed = 0,
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    target_curve: TargetCurve = "llama-8b-1xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 8.0,
    threads: Threads = 1,
    step_tokens: StepTokens = 48,
    json_file: Json = None,
) -> None:
    """Speculation off in the full system beside the same verifier with no drafter deployed, both paced."""
    from benchmarks.harness.overruns import print_overruns
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.load.off_cost import OffCostOptions, print_off_cost, run_off_cost
    from deployments.cli.options import check_writable, write_json
    from simulator.policies import lengths

    console = Console()
    with errors():
        check_writable(json_file)
        options = OffCostOptions(rounds, requests, sequences, lengths("--tokens", tokens), prompts, seed)
        pair = PacedPair(target, draft, target_curve, draft_curve, time_scale, threads, step_tokens)
        setup = paced_setup(pair, 1, sequences, prompt_tokens)
        report = run_off_cost(options, setup, console)
        write_json(json_file, report)
    print_off_cost(console, report)
    print_overruns(console, report)
    if report["void"]:
        raise typer.Exit(1)


def paced_setup(pair: "PacedPair", crowd: int, sequences: int, prompt_tokens: int) -> "PacedSetup":
    """Raises ConfigError for a curve that cannot be read."""
    from benchmarks.load.server import PacedSetup

    setup = PacedSetup(pair, crowd, sequences, prompt_tokens)
    setup.curves()
    return setup


def check_plots(folder: pathlib.Path | None) -> None:
    if folder is not None:
        from benchmarks.harness.plots import check_folder

        check_folder(folder)
