"""`bench gpu`: options in, report out. Promises: a failed check ends with exit status 1, after everything was measured."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness.report import Report
from deployments.cli.options import Json, errors
from drafthouse.config.serving import VerifierConfig
from drafthouse.errors import ConfigError


def gpu(
    batches: Annotated[str, typer.Option(help="Sequences in flight at once, with commas.")] = "1,8,32",
    tokens: Annotated[int | None, typer.Option(help="New tokens of each request; by default 128, without CUDA 8.", min=2, max=512)] = None,
    rounds: Annotated[int, typer.Option(help="Groups of prompts at each batch size.", min=1)] = 3,
    checks: Annotated[int, typer.Option(help="Prompts whose texts are compared with transformers'.", min=1, max=32)] = 8,
    json_file: Json = None,
) -> None:
    """The engine on a GPU: its checks, and speculation against plain decoding at the cost of an 8B target and a 0.5B draft.

    Without CUDA the same runs at toy size on the CPU, where the figures say nothing.
    """
    import torch

    from benchmarks.gpu.bench import GpuOptions, run_gpu
    from deployments.cli.options import check_writable, write_json

    console = Console()
    with errors():
        check_writable(json_file)
        default = 128 if torch.cuda.is_available() else 8
        report = run_gpu(GpuOptions(_batches(batches), tokens or default, rounds, checks), console)
        write_json(json_file, report)
    print_gpu(console, report)
    if not all(check["passed"] for check in report["checks"]):
        raise typer.Exit(1)


def _batches(text: str) -> tuple[int, ...]:
    """Raises ConfigError naming --batches."""
    most = VerifierConfig().max_sequences
    try:
        sizes = tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--batches: {text!r} is not a list of whole numbers") from error
    if not all(1 <= size <= most for size in sizes):
        raise ConfigError(f"--batches: {text!r}: a step has 1 to {most} sequences")
    return sizes


def print_gpu(console: Console, report: Report) -> None:
    settings = report["settings"]
    sizes = " and ".join(f"a {name} of {count / 1e9:.2g}B" for name, count in settings["parameters"].items())
    console.print(f"{settings['device']}: {sizes} parameters, {settings['dtype']}", style="bold", highlight=False)
    if report["toy"]:
        console.print("TOY: no CUDA device, so this ran small on the CPU; the figures say nothing", style="bold red")
    for check in report["checks"]:
        console.print(f"[{'green]passed' if check['passed'] else 'red]FAILED'}[/] {check['name']}: {check['detail']}", highlight=False)
    console.print(f"copy bandwidth {report['copy_bandwidth_bytes_per_s'] / 1e9:,.0f} GB/s, read and written", highlight=False)
    table = Table()
    for heading in ("batch", "sampling", "plain\ntokens/s", "speculation\ntokens/s", "tokens\nper step", "ratio [95 %]", "control"):
        table.add_column(heading, justify="left" if heading == "sampling" else "right")
    for batch in report["batches"]:
        rates, interval = batch["tokens_per_second"], batch["intervals"]["speculation_vs_plain"]
        for sampling, ratio in batch["ratios"]["speculation_vs_plain"].items():
            low, high = interval[sampling]["low"], interval[sampling]["high"]
            table.add_row(
                str(batch["batch"]), sampling, f"{rates['plain decoding'][sampling]:,.0f}", f"{rates['speculation'][sampling]:,.0f}",
                f"{batch['tokens_per_step']['speculation'][sampling]:.2f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
                f"{batch['control'][sampling]:.2f}",
            )  # fmt: skip
    console.print(table)
    for batch in report["batches"]:
        share = batch["plain_share_of_copy_bandwidth"]
        console.print(f"batch {batch['batch']}: plain greedy decoding reads at {share:.0%} of copy bandwidth, prompts' time included")
