"""The ablation in one process: verifier and drafter take turns on one CPU, on a target of real cost.

Promises: target and draft are loaded once for all configurations; each has engines of its own, so that none
learns from another's steps. Seconds are from the prompt's ids to the last token's.
"""

import copy
import itertools
import time
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from rich.console import Console

from benchmarks.ablation.configurations import CONFIGURATIONS, laid_over, pool_of, pools
from benchmarks.ablation.figures import Generation, Work
from benchmarks.ablation.schedule import Schedule
from benchmarks.harness.contestants import Pair, load_pair
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.harness.samples import Sample
from drafter.engine import DrafterEngine
from drafter.without_model import without_model
from drafthouse.config.faults import describe
from drafthouse.config.serving import DrafterConfig, ServingConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.profiling import latency_of
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import LatencyModel
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

WARM_UP_RUNS, WARM_UP_TOKENS = 2, 24


def measure(
    pair: Pair, names: Sequence[str], prompts: Sequence[list[int]], tokens: int, samplings: Mapping[str, SamplingParams],
    schedule: Schedule, console: Console,
) -> list[Generation]:  # fmt: skip
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded."""
    configs = {name: _config(pair, name) for name in pools(names)}
    with console.status("loading the models"):
        target, draft = load_pair(pair)
        latencies = latency_of(target, VerifierConfig().step_tokens), latency_of(draft, DrafterConfig().step_tokens)
        processes = {name: _process(target, draft, config, *copy.deepcopy(latencies)) for name, config in configs.items()}
    with console.status("warming up"):
        for name, sampling, seed in itertools.product(processes, SAMPLINGS, range(WARM_UP_RUNS)):
            turn = Turn(name, sampling, seed % len(prompts), round=-1, seed=seed)
            _generate(processes[name], turn, prompts[turn.prompt], min(tokens, WARM_UP_TOKENS), samplings[sampling])
    return [
        _generate(processes[pool_of(turn.contestant)], turn, prompts[turn.prompt], tokens, samplings[turn.sampling])
        for turn in schedule.turns(console)
    ]


def _config(pair: Pair, name: str) -> ServingConfig:
    try:
        return laid_over({"target": {"path": pair.target}, "draft": {"path": pair.draft}}, name)
    except ValidationError as error:
        raise ConfigError(f"--configurations: {name}: " + "; ".join(describe(error, ServingConfig))) from error


def _process(
    target: LoadedModel, draft: LoadedModel, config: ServingConfig, target_latency: LatencyModel, draft_latency: LatencyModel
) -> OneProcess:
    verifier = VerifierEngine(target, target_latency, config.verifier, config.tree)
    if config.draft is None:
        alone = without_model(config.target, config.drafter.stages)
        drafter = DrafterEngine(alone, None, config.drafter, config.tree)
    else:
        drafter = DrafterEngine(draft, draft_latency, config.drafter, config.tree, draft=config.draft)
    return OneProcess(verifier, [drafter])


def _generate(process: OneProcess, turn: Turn, prompt: Sequence[int], tokens: int, sampling: SamplingParams) -> Generation:
    request = GenerateRequest(
        request_id=f"{turn}", attempt=1, prompt=tuple(prompt), delivered=(), sampling=sampling, seed=turn.seed, max_tokens=tokens,
        stop_tokens=(), speculation=Speculation(CONFIGURATIONS[turn.contestant].mode),
    )  # fmt: skip
    before, started = counted(process), time.perf_counter()
    output = process.generate([request])[request.request_id]
    seconds = time.perf_counter() - started
    work = counted(process) - before
    process.turn()  # idle: what passes until the next request is no wait for drafts
    sample = Sample(turn.contestant, turn.sampling, turn.prompt, len(output), seconds, round(work.steps))
    return Generation(sample, seconds, work)


def counted(process: OneProcess) -> Work:
    """What its engines have counted so far."""
    verifier, drafters = process.verifier.totals, process.drafters.values()
    return Work(
        committed=verifier.committed, steps=verifier.steps, verified=verifier.verified, run_seconds=verifier.run_seconds,
        wait_seconds=verifier.wait_seconds,
        passes=sum(d.totals.passes for d in drafters), pass_seconds=sum(d.totals.pass_seconds for d in drafters),
        judged=sum(d.totals.judged for d in drafters), first=sum(d.totals.first for d in drafters),
    )  # fmt: skip
