"""`drafthouse bench calibration`."""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.options import Draft, Prompts, PromptsFile, Target, Threads, Tokens
from deployments.cli.options import Json, errors


def calibration(
    target: Target = "demo:target",
    draft: Draft = "demo:draft",
    prompts: Prompts = 60,
    tokens: Tokens = 64,
    threads: Threads = 1,
    prompts_file: PromptsFile = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="PNG file for the reliability diagram.")] = None,
    json_file: Json = None,
) -> None:
    """Do drafted edges keep their word? Reliability before and after calibration; AUC of margin and of draft probability."""
    from benchmarks.calibration.bench import SAMPLINGS, CalibrationOptions, print_calibration, run_calibration
    from benchmarks.calibration.plot import check_plot, plot_reliability
    from deployments.cli.options import check_writable, write_json

    with errors():
        check_writable(json_file)
        check_plot(plot)
        report = run_calibration(CalibrationOptions(target, draft, prompts, tokens, threads, prompts_file))
        write_json(json_file, report)
        if plot is not None:
            plot_reliability(plot, report, list(SAMPLINGS))
    print_calibration(Console(), report)
