"""Makes a Llama checkpoint larger without changing what it computes, to time big models with known text.

Promises: the inflated model's logits equal the source's up to rounding. How, for hidden size h
grown to H:
- The new H - h dimensions of the residual stream are exactly zero: all rows that write them are 0.
  Columns that read them are random, at the scale of the trained ones.
- The mean of squares in RMSNorm shrinks by h/H, so its eps does too, and its weights by sqrt(h/H).
- New attention heads come in whole key-value groups after the real ones; their values are zero.
  New MLP neurons have a zero `up`. Queries, keys, gates and what reads the zeros are random.
- New layers are copies of the real layer before them with all values and `up` zero: they add nothing.
Norm weights are stored in float32 at least, because sqrt(h/H) is not exact in float16. Inflated
models are labelled: `drafthouse_inflated_from` in config.json and the first line of README.md.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from drafthouse.errors import ConfigError, ModelError

LABEL = "drafthouse_inflated_from"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".gguf")
_PREFIX = "model.layers."

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Shape:
    """Sizes of a Llama model; heads are `heads x head_dim` wide, which need not equal `hidden`."""

    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int


def inflate(source: Path, destination: Path, hidden: int, layers: int) -> None:
    """Writes the checkpoint folder `source`, grown to `hidden` and `layers`, to the new folder `destination`.

    Raises ModelError for a source that is not a plain Llama, ConfigError for sizes it cannot grow to.
    """
    config = _read_config(source)
    old = _shape(config)
    new = _grown(old, hidden, layers)
    if destination.exists() and any(destination.iterdir()):
        raise ConfigError(f"{destination}: not empty")
    weights = _inflate_weights(_read_weights(source), old, new, tied=bool(config.get("tie_word_embeddings", False)))
    destination.mkdir(parents=True, exist_ok=True)
    save_file(weights, destination / "model.safetensors", metadata={"format": "pt"})
    grown = config | {
        "hidden_size": new.hidden, "intermediate_size": new.mlp, "num_hidden_layers": new.layers,
        "num_attention_heads": new.heads, "num_key_value_heads": new.kv_heads, "head_dim": new.head_dim,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6) * old.hidden / new.hidden, LABEL: source.name,
    }  # fmt: skip
    (destination / "config.json").write_text(json.dumps(grown, indent=2) + "\n", encoding="utf-8")
    _copy_others(source, destination, old, new)


def _read_config(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: no readable config.json: {error}") from error
    if config.get("architectures") != ["LlamaForCausalLM"]:
        raise ModelError(f"{source}: only LlamaForCausalLM can be inflated, not {config.get('architectures')}")
    for name in ("attention_bias", "mlp_bias", "quantization_config"):
        if config.get(name):
            raise ModelError(f"{source}: cannot inflate a model with {name}")
    return config


def _read_weights(source: Path) -> Weights:
    weights: Weights = {}
    for file in sorted(source.glob("*.safetensors")):
        weights |= load_file(file)
    if not weights:
        raise ModelError(f"{source}: no .safetensors file")
    return weights


def _shape(config: dict[str, Any]) -> _Shape:
    def size(name: str, default: int | None = None) -> int:
        value = config.get(name)
        value = default if value is None else value
        if not isinstance(value, int):
            raise ModelError(f"config.json: {name} is {value}, not a whole number")
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    return _Shape(
        hidden, size("intermediate_size"), heads, size("num_key_value_heads", heads), size("head_dim", hidden // heads),
        size("num_hidden_layers"),
    )  # fmt: skip


def _grown(old: _Shape, hidden: int, layers: int) -> _Shape:
    """The shape at `hidden` and `layers`: heads, key-value heads and MLP grow in proportion to the width."""
    step = math.lcm(old.head_dim, old.hidden // math.gcd(old.hidden, old.kv_heads))
    nearest = step * max(round(hidden / step), -(-old.hidden // step))
    if hidden != old.hidden and hidden != nearest:
        raise ConfigError(
            f"--hidden {hidden}: it must be a multiple of {step} (whole heads of {old.head_dim}, whole key-value groups)"
            f" and not below the source's {old.hidden}; the nearest is {nearest}"
        )
    if layers < old.layers:
        raise ConfigError(f"--layers {layers}: not below the source's {old.layers}")
    heads, kv_heads = old.heads * hidden // old.hidden, old.kv_heads * hidden // old.hidden
    return _Shape(hidden, round(old.mlp * hidden / old.hidden), heads, kv_heads, old.head_dim, layers)


def _inflate_weights(weights: Weights, old: _Shape, new: _Shape, tied: bool) -> Weights:
    """All tensors of the grown model; a function of its arguments (the random fill has a fixed seed)."""
    random = torch.Generator().manual_seed(0)
    embedding = _grow(weights["model.embed_tokens.weight"], None, new.hidden, random)
    embedding[:, old.hidden :] = 0
    result = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": _grow_norm(weights["model.norm.weight"], new.hidden),
    }
    if not tied:
        result["lm_head.weight"] = _grow(weights["lm_head.weight"], None, new.hidden, random)
    real_at = [i * new.layers // old.layers for i in range(old.layers)] + [new.layers]
    for i in range(old.layers):
        prefix = f"{_PREFIX}{i}."
        layer = _grow_layer({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}, old, new, random)
        result |= _named(layer, real_at[i])
        for index in range(real_at[i] + 1, real_at[i + 1]):
            result |= _named(_idle(layer), index)
    return result


def _named(layer: Weights, index: int) -> Weights:
    return {f"{_PREFIX}{index}.{name}": weight for name, weight in layer.items()}


def _grow_layer(layer: Weights, old: _Shape, new: _Shape, random: torch.Generator) -> Weights:
    """One decoder layer at the new width. Zeros stand only where a random value would reach the residual stream."""
    query_rows, kv_rows = new.heads * new.head_dim, new.kv_heads * new.head_dim
    rows = {
        "self_attn.q_proj": (query_rows, new.hidden), "self_attn.k_proj": (kv_rows, new.hidden),
        "self_attn.v_proj": (kv_rows, new.hidden), "self_attn.o_proj": (new.hidden, query_rows),
        "mlp.gate_proj": (new.mlp, new.hidden), "mlp.up_proj": (new.mlp, new.hidden), "mlp.down_proj": (new.hidden, new.mlp),
    }  # fmt: skip
    zero_from = {
        "self_attn.v_proj": old.kv_heads * old.head_dim, "mlp.up_proj": old.mlp,
        "self_attn.o_proj": old.hidden, "mlp.down_proj": old.hidden,
    }  # fmt: skip
    result = {name: _grow_norm(layer[name], new.hidden) for name in ("input_layernorm.weight", "post_attention_layernorm.weight")}
    for name, (height, width) in rows.items():
        grown = _grow(layer[f"{name}.weight"], height, width, random)
        grown[zero_from.get(name, height) :] = 0
        result[f"{name}.weight"] = grown
    return result


def _idle(layer: Weights) -> Weights:
    """A copy of a layer that adds nothing to the residual stream."""
    silent = ("self_attn.v_proj.weight", "mlp.up_proj.weight")
    return {name: torch.zeros_like(weight) if name in silent else weight.clone() for name, weight in layer.items()}


def _grow(matrix: torch.Tensor, height: int | None, width: int, random: torch.Generator) -> torch.Tensor:
    """`matrix` in the upper left corner of `[height, width]` (None: its own height), the rest random with its deviation."""
    shape = (matrix.shape[0] if height is None else height, width)
    grown = (torch.randn(shape, generator=random) * matrix.float().std()).to(matrix.dtype)
    grown[: matrix.shape[0], : matrix.shape[1]] = matrix
    return grown


def _grow_norm(weight: torch.Tensor, width: int) -> torch.Tensor:
    """Weights for the same output from a mean of squares that is `h / width` of what it was; new ones repeat the old."""
    old = weight.shape[0]
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return precise.repeat(-(-width // old))[:width] * math.sqrt(old / width)


def _copy_others(source: Path, destination: Path, old: _Shape, new: _Shape) -> None:
    """Tokenizer, generation settings and licence as they are; the model card with the label on top."""
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHT_SUFFIXES) and file.name not in ("config.json", "README.md"):
            shutil.copy(file, destination / file.name)
    card = source / "README.md"
    label = (
        f"**Inflated model**: `{source.name}` grown by Drafthouse from hidden size {old.hidden} to {new.hidden} and from"
        f" {old.layers} to {new.layers} layers with weights that do not change its logits. It is for timing only.\n"
    )
    (destination / "README.md").write_text(label + ("\n" + card.read_text(encoding="utf-8") if card.exists() else ""), encoding="utf-8")
