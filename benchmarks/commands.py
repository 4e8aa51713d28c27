"""`drafthouse bench`: what the system is worth, measured. Each benchmark is a module of its own, imported when it runs.

Promises: an error is one message that names the option, with exit status 1; so is a paced run that is void.
"""

from typing import Annotated

import typer
from rich.console import Console

from benchmarks.ablation.commands import ablation
from benchmarks.calibration.command import calibration
from benchmarks.cancel.commands import cancel, soak
from benchmarks.drafts.commands import drafts, gain
from benchmarks.gateway.command import gateway
from benchmarks.gpu.command import gpu
from benchmarks.harness.options import (
    Chats,
    Draft,
    Dtype,
    Prompts,
    PromptsFile,
    PromptTokens,
    Rounds,
    StepTokens,
    Target,
    Threads,
    Tokens,
)
from benchmarks.kinds.command import kinds
from benchmarks.lm_eval.command import lm_eval
from benchmarks.load.commands import load, load_steps, off_cost
from benchmarks.load.scaling_command import scaling
from benchmarks.peers.command import peers
from benchmarks.structured.command import structured
from deployments.cli.options import DraftCurve, Json, TargetCurve, TimeScale, errors, require_bench

bench_app = typer.Typer(no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure speed: against transformers, over HTTP, on paced devices, under load."""
    require_bench("bench")


bench_app.command()(load)
bench_app.command()(load_steps)
bench_app.command()(scaling)
bench_app.command()(off_cost)
bench_app.command()(ablation)
bench_app.command()(drafts)
bench_app.command()(gain)
bench_app.command()(kinds)
bench_app.command()(calibration)
bench_app.command()(cancel)
bench_app.command()(soak)
bench_app.command()(gateway)
bench_app.command()(gpu)
bench_app.command()(peers)
bench_app.command("json")(structured)
bench_app.command()(lm_eval)


@bench_app.command()
def offline(
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    threads: Annotated[int, typer.Option(help="torch threads, of all contestants.", min=1)] = 2,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64, of all contestants.")] = "float32",
    prompts: Prompts = 12,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    prompts_file: PromptsFile = None,
    kv_tokens: Annotated[int, typer.Option(help="KV slots of our models.", min=64)] = 4096,
    json_file: Json = None,
) -> None:
    """One process, one stream: ours with and without speculation beside transformers plain, assisted and with prompt lookup."""
    from benchmarks.harness.contestants import Pair
    from benchmarks.harness.report import print_report
    from benchmarks.offline import OfflineOptions, notes, run_offline, title
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        pair = Pair(target, draft, dtype, threads, kv_tokens)
        report = run_offline(OfflineOptions(pair, prompts, tokens, rounds, prompts_file), console)
        write_json(json_file, report)
    print_report(console, report, title(report))
    for line in notes(report):
        console.print(line, highlight=False)


@bench_app.command()
def http(
    url: Annotated[str, typer.Option(help="HTTP address of a running server.", envvar="DRAFTHOUSE_URL")] = "http://localhost:8000",
    model: Annotated[str | None, typer.Option(help="Model name; by default the server's one model.")] = None,
    prompts: Prompts = 12,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    prompts_file: PromptsFile = None,
    json_file: Json = None,
) -> None:
    """Speculation auto against off, through the HTTP API of a running server, one stream."""
    from benchmarks.harness.report import print_report
    from benchmarks.http import HttpOptions, notes, run_http
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        report = run_http(HttpOptions(url, model, prompts, tokens, rounds, prompts_file), console)
        write_json(json_file, report)
    print_report(console, report, f"{report['settings']['model']} at {url}; {prompts} prompts x up to {tokens} tokens x {rounds} rounds")
    for line in notes(report):
        console.print(line, highlight=False)


@bench_app.command()
def paced(
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    target_curve: TargetCurve = "llama-70b-4xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 2.0,
    threads: Threads = 1,
    step_tokens: StepTokens = 32,
    prompts: Prompts = 8,
    prompt_tokens: PromptTokens = 64,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    network_ms: Annotated[
        float, typer.Option(help="Round trip to the drafter in the curves' time, by a proxy; needs root and nft.", min=0, max=1000)
    ] = 0.0,
    dtype: Dtype = "float32",
    prompts_file: PromptsFile = None,
    chats: Chats = False,
    json_file: Json = None,
) -> None:
    """A paced 70B target with a paced draft through a real Ray cluster that this command starts: speed-up, overlap, overhead."""
    from benchmarks.harness.paced_server import PacedPair
    from benchmarks.paced import PacedOptions, print_paced, run_paced
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        pair = PacedPair(target, draft, target_curve, draft_curve, time_scale, threads, step_tokens, dtype, chats)
        report = run_paced(PacedOptions(pair, prompts, prompt_tokens, tokens, rounds, prompts_file, network_ms), console)
        write_json(json_file, report)
    print_paced(console, report)
    if report["void"]:
        raise typer.Exit(1)


@bench_app.command()
def decisions(
    repetitions: Annotated[int, typer.Option(help="Calls of each function in each case.", min=10)] = 2000,
    json_file: Json = None,
) -> None:
    """Time that the verifier takes to select nodes and to price one more, by sequences and nodes in the step."""
    from benchmarks.decisions import print_decisions, run_decisions
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_decisions(repetitions)
        write_json(json_file, report)
    print_decisions(Console(), report)


@bench_app.command()
def forward(
    target: Target = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or int8, beside which bfloat16 stands.")] = "float32",
    threads: Threads = 2,
    rounds: Rounds = 10,
    json_file: Json = None,
) -> None:
    """Time of a step on the native decoder and through transformers' modules, with the same weights."""
    from benchmarks.forward import print_forward, run_forward
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_forward(target, dtype, threads, rounds)
        write_json(json_file, report)
    print_forward(Console(), report)


@bench_app.command()
def bits(
    target: Target = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, float64 or int8.")] = "float32",
    threads: Threads = 2,
    texts: Annotated[int, typer.Option(help="Texts, greedy and sampled in turn.", min=2)] = 200,
    tokens: Annotated[int, typer.Option(help="Tokens of each text.", min=4)] = 24,
    json_file: Json = None,
) -> None:
    """Whether a text and all its logits stay the same bit for bit with speculation on, in batches, chunks, after preemption and so on."""
    from benchmarks.bits import print_bits, run_bits
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_bits(target, dtype, threads, texts, tokens)
        write_json(json_file, report)
    print_bits(Console(), report)
    if report["differences"]:
        raise typer.Exit(1)


@bench_app.command()
def prediction(
    target: Target = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, float64 or int8.")] = "bfloat16",
    threads: Threads = 2,
    prompts: Prompts = 12,
    tokens: Tokens = 128,
    rounds: Rounds = 1,
    json_file: Json = None,
) -> None:
    """A predicted output that is the model's own answer with a tenth of its tokens edited: off, on and off again; texts must be equal."""
    from benchmarks.prediction import PredictionOptions, print_prediction, run_prediction
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_prediction(PredictionOptions(target, dtype, threads, prompts, tokens, rounds))
        write_json(json_file, report)
    print_prediction(Console(), report)
    if report["texts_different"]:
        raise typer.Exit(1)


@bench_app.command()
def sampling(
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.", min=1024)] = 49_152,
    rounds: Annotated[int, typer.Option(help="Calls of each kind.", min=1)] = 20,
    threads: Threads = 1,
    json_file: Json = None,
) -> None:
    """Time that choosing a tree's tokens takes, by sampling parameters, and what it would take if the filters sorted all tokens."""
    from benchmarks.sampling import print_sampling, run_sampling
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_sampling(vocab, rounds, threads)
        write_json(json_file, report)
    print_sampling(Console(), report)


@bench_app.command()
def long_prompt(
    target: Target = "demo:target",
    chars: Annotated[int, typer.Option(help="Characters of the prompt.", min=1)] = 4_000_000,
    json_file: Json = None,
) -> None:
    """Time that a gateway's event loop stands still while a long prompt is tokenized: ours beside `Tokenizer.encode`."""
    from benchmarks.long_prompt import print_long_prompt, run_long_prompt
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_long_prompt(target, chars)
        write_json(json_file, report)
    print_long_prompt(Console(), report)


@bench_app.command()
def step(
    sequences: Annotated[int, typer.Option(help="Sequences that decode.", min=1)] = 32,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary; small, so that choosing takes little beside Python.", min=32)] = 256,
    steps: Annotated[int, typer.Option(help="Steps of each kind.", min=1)] = 500,
    json_file: Json = None,
) -> None:
    """Time that a verification step takes in Python, by stage, on a device that has its logits ready."""
    from benchmarks.step import print_steps, run_steps
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        report = run_steps(sequences, vocab, steps)
        write_json(json_file, report)
    print_steps(Console(), report)


@bench_app.command()
def heartbeats(
    replicas: Annotated[
        str, typer.Option(help="Pool sizes with commas between: gateways, verifiers and drafters together.")
    ] = "10,100,600",
    seconds: Annotated[float, typer.Option(help="Length of each measurement.", min=0.1)] = 5.0,
    served: Annotated[bool, typer.Option("--served/--registry-only", help="Also the deployment, on a Ray Serve started for it.")] = True,
    json_file: Json = None,
) -> None:
    """Heartbeats per second that one controller takes, and the pool that this carries."""
    from benchmarks.heartbeats.bench import pool_sizes, print_heartbeats, report_of, run_registry
    from controller.registry import MAX_HEARTBEATS_PER_S
    from deployments.cli.options import check_writable, write_json
    from drafthouse.config.serving import ControllerConfig

    console = Console()
    with errors():
        check_writable(json_file)
        sizes, config = pool_sizes(replicas), ControllerConfig()
        alone = [run_registry(size, seconds, config) for size in sizes]
        rows = []
        if served:
            from benchmarks.heartbeats.served import run_served

            with console.status("measuring on Ray Serve"):
                rows = run_served(sizes, seconds)
        report = report_of(alone, rows, config, MAX_HEARTBEATS_PER_S)
        write_json(json_file, report)
    print_heartbeats(console, report)
