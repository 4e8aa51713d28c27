"""`drafthouse simulate`: pools of any size on simulated time, with the policy code that serves.

Promises: options and files are checked before anything is simulated; an error is one message that
names the option, with exit status 1.
"""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deployments.cli.options import DraftCurve, Json, TargetCurve, TimeScale, check_writable, errors, require_bench, write_json

if TYPE_CHECKING:
    from simulator.options import Options
    from simulator.sweep import Point

DEFAULT_REQUESTS = 500
Overhead = Annotated[float, typer.Option(help="Milliseconds, beside the curve; not stretched.")]


def simulate(
    verifiers: Annotated[str, typer.Option(help="Verifier replicas, or several counts with commas.")] = "1",
    drafters: Annotated[str, typer.Option(help="Drafter replicas, or several counts with commas.")] = "1",
    rate: Annotated[float | None, typer.Option(help="Requests per second of the whole cluster. Default: the trace's own arrivals.")] = None,
    rate_per_verifier: Annotated[float | None, typer.Option(help="The same for each verifier.")] = None,
    trace: Annotated[
        pathlib.Path | None, typer.Option(help="Acceptance trace of `bench load --record`. Default: the demo pair's, of the package.")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Only the trace's requests of this workload.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How long requests arrive.")] = None,
    requests: Annotated[
        int | None, typer.Option(help=f"How many requests arrive. Default, with a rate and without --seconds: {DEFAULT_REQUESTS}.")
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain/--no-drain", help="Simulate until the last request is served, or end with the arrivals (--seconds).")
    ] = True,
    target_curve: TargetCurve = "llama-8b-1xh100",
    draft_curve: DraftCurve = "draft-0.5b",
    time_scale: TimeScale = 1.0,
    policy: Annotated[str, typer.Option(help="auto, off, chain3, tree or batch-table, as `bench load` has them.")] = "auto",
    round_trip_ms: Annotated[float, typer.Option(help="Network round trip between replicas.")] = 0.3,
    max_sequences: Annotated[int | None, typer.Option(help="Sequences in one step; stands over the config's.")] = None,
    step_overhead_ms: Overhead = 0.5,
    pass_overhead_ms: Overhead = 0.5,
    gateway_overhead_ms: Overhead = 3.0,
    heartbeat_overhead_ms: Annotated[
        float, typer.Option(help="The controller's time for one report; `bench heartbeats` measures it.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of arrivals, texts and drafts off the path.")] = 0,
    config: Annotated[pathlib.Path | None, typer.Option(help="YAML as `serve` takes it: verifier, drafter, tree, controller.")] = None,
    check: Annotated[
        pathlib.Path | None, typer.Option(help="JSON of `bench load` on a paced server: compare latencies with it, at each of its points.")
    ] = None,
    control_limits: Annotated[bool, typer.Option("--limits", help="Also what the control plane costs at these sizes and beyond.")] = False,
    json_file: Json = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="PNG: goodput against pool sizes.")] = None,
) -> None:
    """Simulate pools of any size: the policy that serves, on latency curves and recorded acceptance."""
    require_bench("simulate")
    from drafthouse.config.config_file import load_config
    from drafthouse.engine.curve_files import load_curve
    from drafthouse.errors import ConfigError
    from drafthouse.speculation import Speculation
    from simulator.options import Options, Overheads
    from simulator.policies import POLICIES, chosen

    with errors():
        check_writable(json_file)
        if rate is not None and rate_per_verifier is not None:
            raise ConfigError("--rate, --rate-per-verifier: only one of them can hold")
        if (rate is not None or rate_per_verifier is not None) and seconds is None and requests is None:
            requests = DEFAULT_REQUESTS
        names = chosen("--policy", policy, POLICIES)
        if len(names) != 1:
            raise ConfigError(f"--policy: one policy is simulated, not {policy!r}")
        serving = load_config(config)
        if max_sequences is not None:
            if not 1 <= max_sequences <= 4096:
                raise ConfigError(f"--max-sequences must lie between 1 and 4096, not {max_sequences}")
            serving = serving.model_copy(update={"verifier": serving.verifier.model_copy(update={"max_sequences": max_sequences})})
        overheads = Overheads(
            step_s=step_overhead_ms / 1e3, pass_s=pass_overhead_ms / 1e3, gateway_s=gateway_overhead_ms / 1e3,
            heartbeat_s=heartbeat_overhead_ms / 1e3,
        )  # fmt: skip
        options = Options(
            verifiers=1, drafters=1, rate=rate if rate is not None else rate_per_verifier, target=load_curve(target_curve),
            draft=load_curve(draft_curve), seconds=seconds, requests=requests, time_scale=time_scale,
            speculation=Speculation(**POLICIES[names[0]]), round_trip_s=round_trip_ms / 1e3, overheads=overheads, config=serving,
            workload=workload, seed=seed, drain=drain,
        )  # fmt: skip
        if check is not None:
            _check(options, trace, check, json_file)
            return
        points = _sweep(options, verifiers, drafters, rate_per_verifier is not None, trace, json_file, control_limits)
        if plot is not None:
            from simulator.report import plot as draw

            draw(points, plot)


def _sweep(
    options: "Options",
    verifiers: str,
    drafters: str,
    per_verifier: bool,
    trace: pathlib.Path | None,
    json_file: pathlib.Path | None,
    control_limits: bool,
) -> "list[Point]":
    from dataclasses import asdict

    from rich.progress import track

    from simulator.limits import beyond
    from simulator.report import build_report, print_limits, print_point, print_sweep
    from simulator.sweep import planned, pool_sizes, run
    from simulator.trace import DEMO, read

    console = Console()
    plans = planned(options, pool_sizes("--verifiers", verifiers, 1), pool_sizes("--drafters", drafters, 0), per_verifier)
    recorded = read(trace or DEMO)
    points = [run(plan, recorded) for plan in track(plans, "simulating", console=console, transient=True)]
    report = build_report(options, str(trace or DEMO.name), points)
    if len(points) == 1:
        print_point(console, points[0])
    else:
        print_sweep(console, points)
    if control_limits:
        found = beyond(plans[-1])
        print_limits(console, found)
        report["limits"] = [asdict(f) for f in found]
    write_json(json_file, report)
    return points


def _check(options: "Options", trace: pathlib.Path | None, path: pathlib.Path, json_file: pathlib.Path | None) -> None:
    from simulator.check import Bench, check
    from simulator.report import check_report, print_check
    from simulator.trace import DEMO, read

    console = Console()
    bench = Bench(path, read(trace or DEMO), options)
    with console.status("simulating") as status:
        checked = check(bench, status.update)
    report = check_report(checked)
    print_check(console, report)
    write_json(json_file, report)
    if report["worst_error"] > report["limit"]:
        raise typer.Exit(1)
