"""The contest in one process: verifier and drafter take turns on the same cores, so nothing overlaps and nothing waits, and a tree that
grew during verification would only take time from it: there it does not.

Promises: the target is loaded once, and each draft once; configurations have engines of their own, so that none learns from another's
steps. Texts are token ids.
"""

import copy
import itertools
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from benchmarks.ablation.cpu import counted
from benchmarks.ablation.schedule import Schedule
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.kinds.configurations import Contest, engines_of, mode_of
from benchmarks.kinds.figures import Written
from benchmarks.kinds.prompts import KindPrompt
from drafter.engine import DrafterEngine
from drafthouse.config.serving import ModelConfig, ServingConfig
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.profiling import latency_of
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import LatencyModel
from drafthouse.policy.vocabularies import agree
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.stages.build import placed
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

WARM_UP_RUNS, WARM_UP_TOKENS = 2, 24


def measure(
    contest: Contest, prompts: Sequence[KindPrompt], stops: tuple[int, ...], tokens: int, samplings: Mapping[str, SamplingParams],
    schedule: Schedule, console: Console,
) -> list[Written]:  # fmt: skip
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded."""

    def run(name: str, turn: Turn, most: int) -> Written:
        sampling, prompt = samplings[turn.sampling], prompts[turn.prompt].ids
        request = GenerateRequest(f"{turn}", 1, prompt, (), sampling, turn.seed, most, stops, Speculation(mode_of(turn.contestant)))
        return generate(processes[name], turn, request)

    with console.status("loading the models"):
        processes = load_processes(contest)
    with console.status("warming up"):
        for name, sampling, seed in itertools.product(processes, SAMPLINGS, range(WARM_UP_RUNS)):
            run(name, Turn(name, sampling, seed % len(prompts), round=-1, seed=seed), min(tokens, WARM_UP_TOKENS))
    return [run(engines_of(turn.contestant), turn, tokens) for turn in schedule.turns(console)]


def load_processes(contest: Contest) -> dict[str, OneProcess]:
    """By configuration with engines of its own."""
    alone = {"tree": {"grow_during_verification": False}}
    configs = {name: ServingConfig.model_validate(contest.config(name) | alone) for name in contest.engines}
    target = load(next(iter(configs.values())).target)
    latency = latency_of(target, next(iter(configs.values())).verifier.step_tokens)
    drafts: dict[str, tuple[LoadedModel, LatencyModel]] = {}
    for name, config in configs.items():
        if config.draft is not None and config.draft.path not in drafts:
            drafts[config.draft.path] = _draft(name, config.draft, config.drafter.step_tokens, target)
    return {name: _process(target, copy.deepcopy(latency), config, drafts) for name, config in configs.items()}


def _draft(name: str, config: ModelConfig, step_tokens: int, target: LoadedModel) -> tuple[LoadedModel, LatencyModel]:
    draft = load(config)
    if not agree(draft.vocabulary, target.vocabulary):
        raise ConfigError(f"--{name} {config.path}: its tokenizer has another vocabulary than the target's")
    return draft, latency_of(draft, step_tokens)


def _process(
    target: LoadedModel, latency: LatencyModel, config: ServingConfig, drafts: Mapping[str, tuple[LoadedModel, LatencyModel]]
) -> OneProcess:
    stages = placed(config.drafter.stages, "verifier", config.draft, target.runner.vocab_size)
    verifier = VerifierEngine(target, latency, config.verifier, config.tree, stages=stages)
    if config.draft is None:
        return OneProcess(verifier, [])
    draft, draft_latency = drafts[config.draft.path]
    return OneProcess(verifier, [DrafterEngine(draft, copy.deepcopy(draft_latency), config.drafter, config.tree, draft=config.draft)])


def generate(process: OneProcess, turn: Turn, request: GenerateRequest) -> Written:
    """One text, timed from the prompt's ids to the last token's."""
    before, tokens, first = counted(process), list[int](), None
    started = time.perf_counter()
    for reply in process.replies([request]):
        tokens += reply.tokens
        first = first or (time.perf_counter() if tokens else None)
    ended = time.perf_counter()
    process.turn()  # idle: the drafter hears of the end, and what passes until the next request is no wait for drafts
    return Written(turn, tuple(tokens), len(tokens), (first or ended) - started, ended - started, counted(process) - before)
