"""What is compared: our engines in one process, and transformers' `generate` in three ways.

Promises: every `generate` returns exactly the tokens asked for, since none stops at an end-of-text
token, and how many passes of the target they took. Ours and transformers' models are loaded
separately: they differ in attention, KV cache and the layout of linears.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from drafter.engine import DrafterEngine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import DrafterConfig, ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.profiling import latency_of
from drafthouse.errors import ConfigError, ModelError
from drafthouse.policy.latency import LatencyModel
from drafthouse.policy.vocabularies import agree
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

PROMPT_LOOKUP_TOKENS = 10
"""Transformers has no default; its documentation uses 10."""

SAMPLING = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=1.0)}


@dataclass(frozen=True, slots=True)
class Output:
    tokens: list[int]
    target_passes: int


class Contestant(Protocol):
    def generate(self, prompt: Sequence[int], tokens: int, sampling: str, seed: int) -> Output: ...


class Drafthouse:
    """One request at a time through the verifier's engine and, with mode `auto`, one drafter's."""

    def __init__(self, process: OneProcess, mode: str):
        self.process, self.mode = process, mode
        self._numbers = itertools.count()

    def generate(self, prompt: Sequence[int], tokens: int, sampling: str, seed: int) -> Output:
        request = GenerateRequest(
            request_id=str(next(self._numbers)), attempt=1, prompt=tuple(prompt), delivered=(), sampling=SAMPLING[sampling], seed=seed,
            max_tokens=tokens, stop_tokens=(), speculation=Speculation(self.mode),
        )  # fmt: skip
        before = self.process.verifier.totals.steps
        output = self.process.generate([request])[request.request_id]
        return Output(output, self.process.verifier.totals.steps - before)


class Transformers:
    """`generate` with its dynamic KV cache and SDPA attention; `how` are the arguments that choose a way of speculating."""

    def __init__(self, model: PreTrainedModel, **how: Any):
        self.model, self.how = model, how

    def generate(self, prompt: Sequence[int], tokens: int, sampling: str, seed: int) -> Output:
        ids = torch.tensor([list(prompt)], device=self.model.device)
        wanted: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": sampling != "greedy"}
        if sampling != "greedy":
            wanted |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        passes = 0

        def count(*_: object) -> None:
            nonlocal passes
            passes += 1

        torch.manual_seed(seed)
        hook = self.model.register_forward_hook(count)
        try:
            with torch.inference_mode():
                output = self.model.generate(ids, attention_mask=torch.ones_like(ids), **wanted, **self.how)
        finally:
            hook.remove()
        return Output(output[0, ids.shape[1] :].tolist(), passes)


@dataclass(frozen=True)
class Pair:
    """What is loaded from `--target` and `--draft`; both in one dtype, on one device, with one number of threads. Without a prefix cache,
    since contestants take turns on the same prompts."""

    target: str
    draft: str
    dtype: str
    threads: int
    kv_tokens: int
    device: str = "cpu"


def load_stock(path: str, dtype: str) -> PreTrainedModel:
    """Transformers' own model, without the generation settings of its folder: no end-of-text token, no filters."""
    if dtype == "int8":
        raise ConfigError("--dtype: transformers' models have no int8 here to compare with; take float32 or bfloat16")
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model_path(path), dtype=getattr(torch, dtype), attn_implementation="sdpa", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{path}: cannot load the model: {error}") from error
    model.generation_config = GenerationConfig()
    return model.eval().requires_grad_(False)


def ours(pair: Pair, tree: TreeConfig | None = None) -> tuple[Drafthouse, Drafthouse]:
    """With speculation and without: one set of weights, but engines of their own, so that neither learns from the other's steps."""
    tree = tree or TreeConfig()
    target, draft = load_pair(pair)
    latency = latency_of(target, VerifierConfig().step_tokens)
    drafter = DrafterEngine(draft, latency_of(draft, DrafterConfig().step_tokens), DrafterConfig(), tree)
    speculating = OneProcess(_verifier(target, copy.deepcopy(latency), tree), [drafter])
    plain = OneProcess(_verifier(target, latency, tree), [])
    return Drafthouse(speculating, "auto"), Drafthouse(plain, "off")


def load_pair(pair: Pair) -> tuple[LoadedModel, LoadedModel]:
    """Target and draft. Raises ConfigError naming --draft where their tokenizers have different vocabularies."""
    target, draft = (load(_model_config(pair, path)) for path in (pair.target, pair.draft))
    if not agree(target.vocabulary, draft.vocabulary):
        raise ConfigError(f"--draft {pair.draft}: its tokenizer has another vocabulary than that of {pair.target}")
    return target, draft


def _verifier(target: LoadedModel, latency: LatencyModel, tree: TreeConfig) -> VerifierEngine:
    return VerifierEngine(target, latency, VerifierConfig(), tree)


def _model_config(pair: Pair, path: str) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "path": path,
            "dtype": pair.dtype,
            "device": pair.device,
            "threads": pair.threads,
            "kv_tokens": pair.kv_tokens,
            "prefix_cache": "off",
        }  # fmt: skip
    )
