"""From a config section to a model that passed the self-check, with its KV cache.

Promises: whatever is wrong with the folder, the device or the architecture becomes a ModelError
or ConfigError that names the path.
"""

import copy
import hashlib
import os
import pathlib
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafthouse.config import ModelConfig, model_path
from drafthouse.engine import attention
from drafthouse.engine.compiled import CompiledModel
from drafthouse.engine.cpu_linear import pack_linears
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.model_runner import KvShape, ModelRunner
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.self_check import reference_of, self_check
from drafthouse.errors import ConfigError, ModelError
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.latency import load_curve


@dataclass(frozen=True)
class LoadedModel:
    """A runner ready to serve, the model's context length in tokens and its fingerprint."""

    runner: ModelRunner
    context: int
    fingerprint: str


def load(config: ModelConfig) -> LoadedModel:
    path = model_path(config.path)
    device = torch.device("cuda" if config.device == "cuda" else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{config.path}: device is cuda, but torch sees no GPU")
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    attention.register()
    dtype: torch.dtype = getattr(torch, config.dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention.IMPLEMENTATION)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{config.path}: cannot load the model: {error}") from error
    return prepare(model.to(device), config, fingerprint(path, config))


def prepare(model: PreTrainedModel, config: ModelConfig, model_fingerprint: str) -> LoadedModel:
    """Checks and wraps a model in memory; its config is copied, since other models may share it."""
    attention.register()
    model.config = copy.deepcopy(model.config)
    model.eval().requires_grad_(False)
    if model.dtype == torch.float64:
        model.set_experts_implementation("eager")  # torch's grouped matrix product has no float64
    text = model.config.get_text_config()
    context = int(getattr(text, "max_position_embeddings", 0) or 2048)
    shape = kv_shape(model)
    cache = KvCache(shape.layers, shape.kv_heads, shape.head_dim, config.kv_tokens, model.dtype, model.device)
    try:
        model.set_attn_implementation(attention.IMPLEMENTATION)
    except ValueError as error:
        raise ModelError(f"{config.path}: self-check: no custom attention in this architecture: {error}") from error
    runner = ModelRunner(model, cache)
    try:
        self_check(runner, reference_of(model), context)
    except ModelError as error:
        raise ModelError(f"{config.path}: {error}") from error
    pack_linears(model)
    if config.compile:
        runner = ModelRunner(model, cache, CompiledModel(model))
    if config.paced is not None:
        runner = PacedRunner(model, cache, load_curve(config.paced.curve), config.paced.time_scale)
    return LoadedModel(runner, context, model_fingerprint)


def kv_shape(model: PreTrainedModel) -> KvShape:
    """Layers, KV heads and head size as the config states them; the self-check proves them right."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if not heads:
        raise ModelError(f"{text.model_type}: self-check: the model has no attention heads; recurrent models cannot verify token trees")
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return KvShape(text.num_hidden_layers, kv_heads, head_dim)


def fingerprint(path: str, config: ModelConfig) -> str:
    """What must agree for two replicas to give the same text: weights, tokenizer, dtype, noise version.

    Of each weight file the size, the first and the last megabyte are hashed: enough to tell
    checkpoints apart without reading all of a large one.
    """
    digest = hashlib.sha256(f"{config.dtype} noise {NOISE_VERSION}".encode())
    folder = pathlib.Path(path)
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.suffix in {".json", ".safetensors"}:
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as f:
                digest.update(f.read(1 << 20))
                f.seek(-min(1 << 20, file.stat().st_size), os.SEEK_END)
                digest.update(f.read(1 << 20))
    if not folder.is_dir():
        digest.update(path.encode())
    return digest.hexdigest()[:16]
