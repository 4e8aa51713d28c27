"""`drafthouse simulate-pools`: one pool of drafters for several targets, the controller's directives against what goes without them.

Promises: options are checked before anything is simulated; an error is one message that names the option, with exit status 1.
"""

import pathlib
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from deployments.cli.options import Json, check_writable, errors, require_bench, write_json
from drafthouse.objective import FIRST_PRIORITY, LAST_PRIORITY


def simulate_pools(
    policies: Annotated[str, typer.Option(help="directives, equal, local and split, or some of them with commas.")] = "all",
    verifiers: Annotated[str, typer.Option(help="Verifier replicas of all targets, or several counts with commas.")] = "4",
    drafters: Annotated[str, typer.Option(help="Drafter replicas, every other one slow, or several counts with commas.")] = "2,4,8",
    rate_per_verifier: Annotated[float, typer.Option(help="Requests per second.")] = 9.0,
    seconds: Annotated[float, typer.Option(help="How long requests arrive, and are simulated.")] = 8.0,
    seeds: Annotated[int, typer.Option(help="Simulations of each point, averaged.", min=1, max=100)] = 1,
    targets: Annotated[str, typer.Option(help="Curves of the targets' passes, one each.")] = "llama-8b-1xh100,llama-70b-4xh100",
    first_share: Annotated[str, typer.Option(help="Share of the requests for the first target, in each part of the time.")] = "0.6,0.3",
    urgent_share: Annotated[float, typer.Option(help="Share of the requests that have an objective.")] = 0.5,
    per_token_ms: Annotated[float, typer.Option(help="Their objective.")] = 16.0,
    urgent_priority: Annotated[
        int, typer.Option(help="Their priority; each step down doubles what their tokens are worth.", min=FIRST_PRIORITY, max=LAST_PRIORITY)
    ] = -1,
    output_tokens: Annotated[str, typer.Option(help="Output lengths, evenly drawn.")] = "48-96",
    max_sequences: Annotated[int, typer.Option(help="Sequences in one step.", min=1, max=4096)] = 16,
    trace: Annotated[pathlib.Path | None, typer.Option(help="Acceptance trace. Default: the demo pair's, of the package.")] = None,
    seed: Annotated[int, typer.Option(help="The first; each simulation has the next.")] = 0,
    json_file: Json = None,
) -> None:
    """Simulate targets that share a pool of drafters, under each policy."""
    require_bench("simulate-pools")
    from drafthouse.config.serving import ServingConfig
    from drafthouse.engine.curve_files import load_curve
    from simulator.mix import POOL_POLICIES
    from simulator.options import Options
    from simulator.policies import chosen, lengths, shares
    from simulator.pools import pool_mix, pools_report, print_pools, run_policy
    from simulator.sweep import planned, pool_sizes
    from simulator.trace import DEMO, read

    with errors():
        check_writable(json_file)
        names = chosen("--policies", ",".join(POOL_POLICIES) if policies == "all" else policies, POOL_POLICIES)
        mix = pool_mix(
            targets, urgent_share, per_token_ms, urgent_priority, shares("--first-share", first_share),
            lengths("--output-tokens", output_tokens),
        )  # fmt: skip
        options = Options(
            verifiers=1, drafters=1, rate=rate_per_verifier, target=mix.targets[0], draft=load_curve("draft-0.5b"), seconds=seconds,
            drain=False, seed=seed, mix=mix,
            config=ServingConfig.model_validate({"verifier": {"max_sequences": max_sequences}}),
        )  # fmt: skip
        sizes = pool_sizes("--verifiers", verifiers, len(mix.targets)), pool_sizes("--drafters", drafters, 1)
        plans = [(plan, name) for plan in planned(options, *sizes, per_verifier=True) for name in names]
        console, recorded = Console(), read(trace or DEMO)
        points = [run_policy(plan, name, seeds, recorded) for plan, name in track(plans, "simulating", console=console, transient=True)]
        print_pools(console, points)
        write_json(json_file, pools_report(options, points))
