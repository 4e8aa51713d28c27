"""What a dense decoder is made of, read from the stock model: the shapes, the numbers and the weights of each layer.

Promises: `describe` takes the weights as they are and computes nothing but the tables of rotary angles. What it does not know is
a NotDense with the reason; whether what it read is right is for the self-check to say.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from drafthouse.engine.native.share import Share, whole

MULTIPLE = 16
"""Hidden sizes and head sizes are whole vectors."""

DENSE_FAMILIES = {
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "olmo2", "phi3", "gemma2", "gemma3_text",
}  # fmt: skip
"""`model_type` of what fits the description; the weights have the last word."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Of weights."""

ROTARY_KINDS = {"default", "linear", "llama3", "yarn"}
"""Those whose angles depend on the position alone. The others look at the longest position of a batch."""


class NotDense(Exception):
    """The native decoder does not run this model; the message says why."""


@dataclass(frozen=True, slots=True)
class LinearWeights:
    """`weight` `[outer, inner]` as parts stacked by output, `bias` `[outer]` or none."""

    parts: Sequence[torch.Tensor]
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Norm weights `[hidden]` before and after attention and MLP, where there are any; `window` 0 is none."""

    qkv: LinearWeights
    out: LinearWeights
    gate_up: LinearWeights
    down: LinearWeights
    attn_in: torch.Tensor | None
    attn_out: torch.Tensor | None
    mlp_in: torch.Tensor | None
    mlp_out: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    rotary: str
    window: int


@dataclass(frozen=True, slots=True)
class DecoderDescription:
    """`rotary` by kind of layer: cosines and sines `[context, rotary_dim / 2]`.

    Of several ranks each has its share of the linears, of `embedding` and of `head`, and `heads`, `kv_heads` and `intermediate` count
    this share; `vocab` is of all: rows of the head. `tokens` are those of the embedding, more than `vocab` where a draft's head is cut.
    """

    layers: Sequence[LayerWeights]
    embedding: torch.Tensor
    head: torch.Tensor
    final_norm: torch.Tensor
    rotary: dict[str, tuple[torch.Tensor, torch.Tensor]]
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tokens: int
    activation: str
    eps: float
    scaling: float
    attention_softcap: float
    final_softcap: float
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    norm_over_all_heads: bool
    tied: bool
    share: Share

    @property
    def parameters(self) -> int:
        """Numbers in this rank's weights; a tied head counts once."""
        tensors = [self.embedding, self.final_norm, *(() if self.tied else (self.head,))]
        for layer in self.layers:
            linears = (layer.qkv, layer.out, layer.gate_up, layer.down)
            tensors += [part for linear in linears for part in (*linear.parts, *((linear.bias,) if linear.bias is not None else ()))]
            norms = (layer.attn_in, layer.attn_out, layer.mlp_in, layer.mlp_out, layer.q_norm, layer.k_norm)
            tensors += [norm for norm in norms if norm is not None]
        return sum(tensor.numel() for tensor in tensors)


def describe(model: PreTrainedModel, context: int, share: Share = Share()) -> DecoderDescription:  # noqa: B008 (frozen)
    """Of the share of one rank; all ranks must call it together. Raises NotDense for a model of another kind."""
    config = model.config.get_text_config()
    if model.dtype not in DTYPES:
        raise NotDense(f"weights are {model.dtype}")
    try:
        layers = list(model.model.layers)
        attention = layers[0].self_attn
        heads, head_dim = config.num_attention_heads, int(attention.head_dim)
        kv_heads = config.num_key_value_heads or heads
        _check_share(share, heads, kv_heads, config.intermediate_size, model.lm_head.weight.shape[0])
        activation = _activation(config)
        gain = 1.0 if "gemma" in config.model_type else 0.0  # Gemma stores what is added to 1
        rotary = _rotary(model, layers, context)
        q_norm = getattr(attention, "q_norm", None)
        described = DecoderDescription(
            layers=[_layer(model, index, gain, share) for index in range(len(layers))],
            embedding=share.rows(model.model.embed_tokens.weight)[0],
            head=share.rows(model.lm_head.weight)[0],
            final_norm=_norm(model.model.norm, gain),
            rotary=rotary,
            hidden=config.hidden_size,
            heads=heads // share.ranks,
            kv_heads=kv_heads // share.ranks,
            head_dim=head_dim,
            intermediate=config.intermediate_size // share.ranks,
            vocab=model.lm_head.weight.shape[0],
            tokens=model.model.embed_tokens.weight.shape[0],
            activation=activation,
            eps=config.rms_norm_eps,
            scaling=float(attention.scaling),
            attention_softcap=float(getattr(config, "attn_logit_softcapping", None) or 0.0),
            final_softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
            embedding_scale=_embedding_scale(model, config),
            residual_scale=float(getattr(config, "residual_multiplier", 1.0)),
            logit_scale=1.0 / float(getattr(config, "logits_scaling", 1.0)),
            norm_over_all_heads=q_norm is not None and q_norm.weight.shape[0] != head_dim,
            tied=model.lm_head.weight is model.model.embed_tokens.weight,
            share=share,
        )
    except AttributeError as error:
        raise NotDense(f"its modules are not those of a dense decoder ({error})") from error
    _check(described, config)
    return described


def _check(d: DecoderDescription, config: Any) -> None:
    for name, value in (("hidden_size", d.hidden), ("head_dim", d.head_dim)):
        if value % MULTIPLE:
            raise NotDense(f"{name} {value} is not a multiple of {MULTIPLE}")
    if config.model_type not in DENSE_FAMILIES:
        raise NotDense(f"model_type {config.model_type} is none of {', '.join(sorted(DENSE_FAMILIES))}")
    if d.intermediate % 2 or d.hidden % 2 or (d.heads * d.head_dim) % 2:
        raise NotDense("an inner size is odd")


def _check_share(share: Share, heads: int, kv_heads: int, intermediate: int, vocab: int) -> None:
    for name, value in (("num_attention_heads", heads), ("num_key_value_heads", kv_heads), ("intermediate_size", intermediate)):
        if value % share.ranks:
            raise NotDense(f"{name} {value} is not a multiple of {share.ranks} ranks")
    if -(-vocab // share.ranks) * (share.ranks - 1) >= vocab:
        raise NotDense(f"{share.ranks} ranks are too many for {vocab} tokens")


def _activation(config: Any) -> str:
    name = str(getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None))
    if name in ("silu", "swish"):
        return "silu"
    if name == "gelu_pytorch_tanh":
        return "gelu_tanh"
    raise NotDense(f"activation {name}")


def _embedding_scale(model: PreTrainedModel, config: Any) -> float:
    scale = getattr(model.model.embed_tokens, "embed_scale", None)
    if scale is not None:
        return float(scale.to(model.dtype))
    return float(getattr(config, "embedding_multiplier", 1.0))


def _norm(module: Any, gain: float) -> torch.Tensor:
    return whole(module.weight).float() + gain if gain else whole(module.weight)


def _by_output(share: Share, modules: Sequence[torch.nn.Linear], blocks: Sequence[int] = ()) -> LinearWeights:
    """`blocks` are the outputs that a module merges."""
    biases = [module.bias for module in modules]
    if any(b is None for b in biases):
        if any(b is not None for b in biases):
            raise NotDense("some merged linears have a bias and some have none")
        biases = []
    weights = [part for module in modules for part in share.rows(module.weight, blocks)]
    return LinearWeights(weights, torch.cat([part for b in biases for part in share.rows(b, blocks)]) if biases else None)


def _by_input(share: Share, module: torch.nn.Linear) -> LinearWeights:
    """The bias is added once, by the first rank."""
    bias = whole(module.bias) if module.bias is not None else None
    return LinearWeights([share.columns(module.weight)], bias if share.rank == 0 else None)


def _layer(model: PreTrainedModel, index: int, gain: float, share: Share) -> LayerWeights:
    config, layer = model.config.get_text_config(), model.model.layers[index]
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [attention.qkv_proj] if hasattr(attention, "qkv_proj") else [attention.q_proj, attention.k_proj, attention.v_proj]
    gate_up = [mlp.gate_up_proj] if hasattr(mlp, "gate_up_proj") else [mlp.gate_proj, mlp.up_proj]
    heads = (config.num_attention_heads, *[config.num_key_value_heads or config.num_attention_heads] * 2)

    def norm(name: str) -> torch.Tensor | None:
        return _norm(getattr(layer, name), gain) if hasattr(layer, name) else None

    after = hasattr(layer, "post_feedforward_layernorm")  # Olmo 2 and Gemma norm what a part adds, others what it takes
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return LayerWeights(
        qkv=_by_output(share, qkv, [int(attention.head_dim) * count for count in heads] if len(qkv) == 1 else ()),
        out=_by_input(share, attention.o_proj),
        gate_up=_by_output(share, gate_up, [config.intermediate_size] * 2 if len(gate_up) == 1 else ()),
        down=_by_input(share, mlp.down_proj),
        attn_in=norm("input_layernorm"),
        attn_out=norm("post_attention_layernorm") if after else None,
        mlp_in=norm("pre_feedforward_layernorm") if after else norm("post_attention_layernorm"),
        mlp_out=norm("post_feedforward_layernorm"),
        q_norm=_head_norm(q_norm, gain, attention, share),
        k_norm=_head_norm(k_norm, gain, attention, share),
        rotary=_rotary_kind(config, attention, index),
        window=_window(config, attention, index),
    )


def _head_norm(module: Any, gain: float, attention: Any, share: Share) -> torch.Tensor | None:
    """One for all heads alike stays whole; one over all heads is shared out as they are."""
    if module is None:
        return None
    weight = _norm(module, gain)
    return weight if weight.shape[0] == attention.head_dim else share.rows(weight)[0]


def _window(config: Any, attention: Any, index: int) -> int:
    if hasattr(attention, "sliding_window"):
        return int(attention.sliding_window or 0)
    if config.model_type in ("mistral", "phi3"):
        return int(getattr(config, "sliding_window", None) or 0)
    return 0


def _rotary_kind(config: Any, attention: Any, index: int) -> str:
    if not getattr(attention, "use_rope", True):
        return "none"
    return config.layer_types[index] if config.model_type == "gemma3_text" else "all"


def _rotary(model: PreTrainedModel, layers: Sequence[Any], context: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Cosines and sines by kind of layer, as the stock module computes them."""
    config, module = model.config.get_text_config(), model.model.rotary_emb
    kinds = {_rotary_kind(config, layer.self_attn, index) for index, layer in enumerate(layers)}
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    for each in nested:
        if (kind := str(each.get("rope_type", "default"))) not in ROTARY_KINDS:
            raise NotDense(f"rotary scaling {kind} depends on the longest position of a batch")
    positions = torch.arange(context, device=model.device)[None]
    probe = torch.zeros(1, dtype=torch.float32, device=model.device)
    by_type = "layer_type" in inspect.signature(module.forward).parameters
    tables: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    with torch.inference_mode():
        for kind in kinds - {"none"}:
            cos, sin = module(probe, positions, kind) if by_type else module(probe, positions)
            half = cos.shape[-1] // 2
            tables[kind] = (cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
    if "none" in kinds:
        some = next(iter(tables.values()), None)
        half = some[0].shape[1] if some is not None else 0
        tables["none"] = (torch.ones(context, half), torch.zeros(context, half))
    return tables
