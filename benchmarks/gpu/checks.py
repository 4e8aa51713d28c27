"""Whether the engine computes on a device what it computes on a CPU, and what transformers computes there.

Promises: each check gives numbers and the verdict that follows from them. The same checks run as tests: on CUDA in
tests/gpu, and at toy size on the CPU in tests/engine, so that the checks themselves are known to work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.harness.contestants import SAMPLING, Pair, Transformers, load_pair, load_stock
from benchmarks.harness.divergence import explain, float64_twin
from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from drafter.engine import DrafterEngine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.self_check import WORST_LIMIT
from drafthouse.noise import gumbel, position_key
from drafthouse.policy.latency import Curve
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

TARGET, DRAFT = "demo:target", "demo:draft"
PROMPT_TOKENS = 80
NOISE_VOCAB = 131_072
NOISE_KEYS = [(0, 0), (0, 1), (1, 0), (42, 1000), ((1 << 63) - 1, (1 << 22) - 1)]
_FLAT = Curve("flat", "a check: trees are verified whole, whatever the device's curve", 5.0, 0.001, 0.0)


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Texts:
    """Of `compared` pairs of texts: equal ones, and those that part at a near-tie or for no good reason; draft tokens accepted
    meanwhile; KV slots of target and draft that are still taken at the end."""

    compared: int
    equal: int
    explained: int
    unexplained: int
    accepted: int
    leaked: int


def run_checks(device: str, prompts: int, tokens: int) -> list[Check]:
    """All of them. Raises ConfigError without such a device, ModelError where a model fails its self-check."""
    checks = [check_noise(device)]
    for dtype in ("float32", "bfloat16"):
        pair = Pair(TARGET, DRAFT, dtype, threads=torch.get_num_threads(), kv_tokens=8192, device=device)
        target, draft = load_pair(pair)
        checks += [check_self(target, dtype), check_texts(compare(pair, target, draft, prompts, tokens), dtype)]
    return checks


def check_noise(device: str) -> Check:
    """Noise of some positions over a whole vocabulary: bit for bit the CPU's."""
    keys = torch.tensor([position_key(*each) for each in NOISE_KEYS])
    found = gumbel(keys.to(device), NOISE_VOCAB).cpu()
    differing = int((found != gumbel(keys, NOISE_VOCAB)).sum())
    return Check("noise equals the CPU's", differing == 0, f"{differing} of {found.numel()} values differ")


def check_self(model: LoadedModel, dtype: str) -> Check:
    """What the load-time self-check measured."""
    errors = model.errors
    assert errors is not None, "the model was loaded"
    detail = f"logits err by {errors.packed.worst:.2g} of their spread, the stock model's by {errors.stock.worst:.2g}"
    return Check(f"packed steps with trees, {dtype}", errors.packed.worst <= WORST_LIMIT * errors.stock.worst, detail)


def check_texts(texts: Texts, dtype: str) -> Check:
    detail = (
        f"{texts.compared} texts: {texts.equal} equal, {texts.explained} part at a near-tie, {texts.unexplained} for no good reason; "
        f"{texts.accepted} draft tokens accepted, {texts.leaked} KV slots left taken"
    )
    return Check(f"texts with speculation, {dtype}", texts.unexplained == 0 and texts.accepted > 0 and texts.leaked == 0, detail)


def compare(pair: Pair, target: LoadedModel, draft: LoadedModel, prompts: int, tokens: int) -> Texts:
    """Trees on, all prompts in one batch: greedy beside transformers' `generate`, sampled beside speculation off."""
    ids = encode(load_tokenizer(model_path(pair.target)), load_texts(None, prompts), PROMPT_TOKENS)
    tree = TreeConfig()
    drafter = DrafterEngine(draft, _FLAT, DrafterConfig(), tree)
    process = OneProcess(VerifierEngine(target, _FLAT, VerifierConfig(), tree), [drafter])
    on = {sampling: _texts(process, ids, tokens, sampling, "fixed") for sampling in SAMPLING}
    accepted = process.verifier.totals.accepted
    stock = load_stock(pair.target, pair.dtype).to(pair.device)
    plain = Transformers(stock)
    expected = {
        "greedy": [plain.generate(prompt, tokens, "greedy", 0).tokens for prompt in ids],
        "sampled": _texts(process, ids, tokens, "sampled", "off"),
    }
    twin = float64_twin(stock)
    counts = {"equal": 0, "explained": 0, "unexplained": 0}
    for sampling, texts in expected.items():
        for seed, (prompt, mine, theirs) in enumerate(zip(ids, on[sampling], texts, strict=True)):
            found = explain(stock, twin, prompt, SAMPLING[sampling], seed, mine, theirs)
            counts["equal" if found is None else "explained" if found.explained else "unexplained"] += 1
    return Texts(sum(counts.values()), **counts, accepted=accepted, leaked=_leaked(process, [target, draft]))


def _texts(process: OneProcess, prompts: Sequence[Sequence[int]], tokens: int, sampling: str, mode: str) -> list[list[int]]:
    requests = [
        GenerateRequest(str(seed), 1, tuple(prompt), (), SAMPLING[sampling], seed, tokens, (), Speculation(mode, nodes=12, depth=5))
        for seed, prompt in enumerate(prompts)
    ]
    outputs = process.generate(requests)
    return [outputs[request.request_id] for request in requests]


def _leaked(process: OneProcess, models: Sequence[LoadedModel]) -> int:
    """After the last session's close has reached the drafter."""
    process.turn()
    taken = 0
    for model in models:
        allocator = model.runner.cache.allocator
        allocator.check_integrity()
        taken += allocator.count - allocator.free_count
    return taken
