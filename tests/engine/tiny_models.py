"""Tiny random models of many architectures: the same transformers classes as real checkpoints, in float64.

Promises: `tiny(name, seed)` gives the same weights at each call, in eval mode with no end-of-text
token. Weights are large enough that greedy text is neither constant nor a short cycle. Every
window (12) is shorter than the tests' sequences, so a mask that ignores it shows. Mamba alone
returns float32 logits: transformers rounds them there.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCAB_SIZE = 256
WINDOW = 12
INITIAL_STD = 0.3
NORM_STD = 0.2
"""Spread added to norm weights and biases, which transformers starts at exactly 0 or 1."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "initializer_range": INITIAL_STD,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,  # with random weights a tied head makes each token repeat itself
}
_HEADS: dict[str, Any] = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
_GEMMA: dict[str, Any] = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}


def _gemma_layers(layers: int) -> list[str]:
    return ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]


_CONFIGS: dict[str, Callable[[int], PretrainedConfig]] = {
    "llama": lambda n: LlamaConfig(num_hidden_layers=n, **_COMMON, **_HEADS, head_dim=16),
    "smollm3": lambda n: SmolLM3Config(num_hidden_layers=n, **_COMMON, **_HEADS, no_rope_layer_interval=2),
    "granite": lambda n: GraniteConfig(num_hidden_layers=n, **_COMMON, **_HEADS, logits_scaling=2.0, residual_multiplier=0.7),
    "qwen2": lambda n: Qwen2Config(num_hidden_layers=n, **_COMMON, **_HEADS),
    "qwen3": lambda n: Qwen3Config(num_hidden_layers=n, **_COMMON, **_HEADS, head_dim=16),
    "mistral": lambda n: MistralConfig(num_hidden_layers=n, **_COMMON, **_HEADS, head_dim=16, sliding_window=WINDOW),
    "gemma2": lambda n: Gemma2Config(
        num_hidden_layers=n, **_COMMON, **_HEADS, **_GEMMA, layer_types=_gemma_layers(n), attn_logit_softcapping=5.0
    ),
    "gemma3": lambda n: Gemma3TextConfig(num_hidden_layers=n, **_COMMON, **_HEADS, **_GEMMA, layer_types=_gemma_layers(n)),
    "gpt_neox": lambda n: GPTNeoXConfig(num_hidden_layers=n, **_COMMON, intermediate_size=96, num_attention_heads=4),
    "phi3": lambda n: Phi3Config(num_hidden_layers=n, **_COMMON, **_HEADS, original_max_position_embeddings=512),
    "olmo2": lambda n: Olmo2Config(num_hidden_layers=n, **_COMMON, **_HEADS),
    "mixtral": lambda n: MixtralConfig(num_hidden_layers=n, **_COMMON, **_HEADS, head_dim=16, num_local_experts=4),
    "mamba": lambda n: MambaConfig(num_hidden_layers=n, **_COMMON, state_size=8),
}
ATTENTION_MODELS = tuple(name for name in _CONFIGS if name != "mamba")
"""All but the recurrent one."""
_EMBEDDING_SCALE = {"olmo2": 4.0}
"""Olmo2 normalises what each sublayer adds to 1; a small embedding would be lost below that, and the text constant."""


def tiny(name: str, seed: int = 0, dtype: torch.dtype = torch.float64, layers: int = 2, **changes: Any) -> PreTrainedModel:
    """A fresh model of an architecture in `ATTENTION_MODELS` or "mamba", with `changes` to its config. Leaves torch's random state
    as it was."""
    config = _CONFIGS[name](layers)
    config.update(changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += NORM_STD * torch.randn_like(parameter)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    embeddings.weight.data *= _EMBEDDING_SCALE.get(name, 1.0)
    if name == "mixtral":
        model.set_experts_implementation("eager")  # torch's grouped matrix product knows no float64
    torch.nn.Module.to(model, dtype)
    model.train(False)
    return model
