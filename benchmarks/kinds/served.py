"""The contest over HTTP: a real Ray cluster, an application for each way of drafting, one request in flight at a time.

Promises: all applications run all the time, on one cluster, and one of them works at a time; the others cost their heartbeats, the same
to all contestants. So each model is in memory several times, and turns are interleaved. Drafter and verifier are processes that
share the machine's cores: a draft's passes take from the target what they need. Texts are what the client was sent.
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import httpx
from rich.console import Console

from benchmarks.ablation.cluster import ApplicationsServer, beside_others
from benchmarks.ablation.paced import Meter
from benchmarks.ablation.schedule import Schedule
from benchmarks.harness.http_stream import Completion, complete, connect
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.kinds.configurations import Contest, engines_of, mode_of
from benchmarks.kinds.figures import Written
from benchmarks.kinds.prompts import KindPrompt
from deployments.cli.ray_environment import free_port
from deployments.preflight import check_models
from drafthouse.config.serving import ServingConfig
from drafthouse.sampling import SamplingParams

WARM_UP_RUNS, WARM_UP_TOKENS = 2, 24


def measure(
    contest: Contest, prompts: Sequence[KindPrompt], tokens: int, samplings: Mapping[str, SamplingParams], schedule: Schedule,
    console: Console,
) -> list[Written]:  # fmt: skip
    """Raises ConfigError or ModelError for what cannot be served, BenchError when the server fails."""
    configs = serving_configs(contest)
    for config in configs.values():
        check_models(config)
    server = ApplicationsServer(configs)
    with ExitStack() as stack:
        with console.status(f"starting Ray and {len(configs)} applications"):
            server.start()
        stack.enter_context(closing(server))
        clients = {name: stack.enter_context(connect(server.url(name), trust_env=False)) for name in configs}
        meter = Meter({name: server.url(name) for name in configs})
        with console.status("warming up"):
            for name, client in clients.items():
                meter.started(name, _warm_up(client, prompts, min(tokens, WARM_UP_TOKENS), samplings))
        timed: list[tuple[Turn, Completion]] = []
        for turn in schedule.turns(console):
            name = engines_of(turn.contestant)
            meter.before(name)
            body = _body(prompts[turn.prompt], tokens, samplings[turn.sampling], turn.seed, mode_of(turn.contestant))
            timed.append((turn, complete(clients[name], body)))
            meter.after(name, turn)
        for name in configs:
            meter.before(name)
    return [Written(turn, c.text, c.tokens, c.first_text_s, c.seconds, meter.works[turn]) for turn, c in timed]


def serving_configs(contest: Contest) -> dict[str, ServingConfig]:
    """By application, all on the ports of one server."""
    server = {"http_port": free_port(), "grpc_port": free_port(), "dashboard_port": free_port()}
    configs = {name: beside_others(contest.config(name)) | {"server": server} for name in contest.engines}
    return {name: ServingConfig.model_validate(config) for name, config in configs.items()}


def _warm_up(client: httpx.Client, prompts: Sequence[KindPrompt], tokens: int, samplings: Mapping[str, SamplingParams]) -> int:
    """Untimed; kernels and calibration meet their first steps here. Returns how many requests that were."""
    runs = list(itertools.product(SAMPLINGS, range(WARM_UP_RUNS)))
    for sampling, seed in runs:
        complete(client, _body(prompts[seed % len(prompts)], tokens, samplings[sampling], seed, "auto"))
    return len(runs)


def _body(prompt: KindPrompt, tokens: int, sampling: SamplingParams, seed: int, mode: str) -> dict[str, Any]:
    return {
        "model": "kinds", "prompt": list(prompt.ids), "max_tokens": tokens, "temperature": sampling.temperature, "seed": seed,
        "speculation": {"mode": mode}, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
