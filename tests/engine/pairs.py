"""Builders of one-process pairs for the engine's tests."""

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.forward import StockForward
from drafthouse.engine.loader import LoadedModel, prepare
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine

GREEDY = SamplingParams(temperature=0.0)
FLAT = Curve("flat", "a test: further tokens cost next to nothing, so that trees are verified whole", 5.0, 0.001, 0.0)
FAST = Curve("fast", "a test: draft passes cost next to nothing, so that waiting for them always pays", 0.01, 0.0, 0.0)
STEEP = Curve("steep", "a test: a draft pass over two nodes costs half as much again as over one, so that passes take few", 0.01, 0.01, 0.0)


def loaded(model: PreTrainedModel, kv_tokens: int = 4096, prefix_cache: str = "off") -> LoadedModel:
    """Without a prefix cache unless asked for: tests share models, and what one of them has computed would change another's timing."""
    dtype = str(model.dtype).removeprefix("torch.")
    return prepare(model, ModelConfig(path="in memory", dtype=dtype, kv_tokens=kv_tokens, prefix_cache=prefix_cache), "test")


def stock_model(served: LoadedModel) -> PreTrainedModel:
    """The modules of a model that runs through transformers."""
    assert isinstance(served.runner.forward, StockForward), served.runner.forward.name
    return served.runner.forward.model


def noisy_copy(name: str, seed: int, noise: float) -> PreTrainedModel:
    """The tiny model with noise on its weights: a draft that agrees now and then."""
    model = tiny(name, seed)
    generator = torch.Generator().manual_seed(99)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data += noise * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def pair(
    target: LoadedModel,
    drafts: Sequence[LoadedModel],
    verifier: VerifierConfig | None = None,
    drafter: DrafterConfig | None = None,
    tree: TreeConfig | None = None,
    draft_curve: Curve = FAST,
) -> OneProcess:
    tree = tree or TreeConfig()
    engine = VerifierEngine(target, FLAT, verifier or VerifierConfig(), tree)
    return OneProcess(engine, [DrafterEngine(draft, draft_curve, drafter or DrafterConfig(), tree) for draft in drafts])


def request(
    name: str,
    prompt: Sequence[int],
    n: int,
    sampling: SamplingParams = GREEDY,
    seed: int = 0,
    mode: str = "auto",
    nodes: int = 12,
    depth: int = 5,
    width: int = 0,
    delivered: Sequence[int] = (),
    stop_tokens: Sequence[int] = (),
) -> GenerateRequest:
    speculation = Speculation(mode, nodes, depth, width)
    return GenerateRequest(name, 1, tuple(prompt), tuple(delivered), sampling, seed, n, tuple(stop_tokens), speculation)


def prompts(count: int, vocab_size: int = 256, shortest: int = 3, longest: int = 40, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]
