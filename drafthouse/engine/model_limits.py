"""The sizes of a model as its configuration states them. Every role reads them here, so that all agree.

Promises: no weights are read. A configuration that cannot be used is a ModelError which names the
path, the file and, where one is at fault, the field.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drafthouse.checkpoints.model_path import model_path
from drafthouse.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
"""Names of the context length; the first that a configuration has counts. Older families use the later ones."""

FALLBACK_CONTEXT_TOKENS = 2048
"""For families whose positions have no bound, such as those with ALiBi. Most of them are trained on this many tokens."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """`context_tokens` counts prompt and output together; token ids are below `vocab_size`.

    A model without attention heads has 0 of them: it is a recurrent one.
    """

    context_tokens: int
    vocab_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int


def read_config(path: str, trust_remote_code: bool = False) -> "PretrainedConfig":
    """The configuration behind a config path. Raises ConfigError for a folder that is missing, ModelError for what cannot be read.

    Refuses what is no decoder-only language model, and without `trust_remote_code` a model that brings code of its own.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder = model_path(path)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # fault boundary: transformers checks fields with errors of many kinds
        raise ModelError(f"{path}: config.json: {' '.join(str(error).split()) or type(error).__name__}") from error
    own_code = trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not own_code:
        raise ModelError(f"{path}: config.json: model_type {config.model_type} is no decoder-only language model; only those are served")
    return config


def read_limits(path: str, trust_remote_code: bool = False) -> ModelLimits:
    """The limits of the model behind a config path. Raises as `read_config`, and ModelError where a field is missing or wrong."""
    config = read_config(path, trust_remote_code)
    try:
        return limits_of(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def limits_of(config: "PretrainedConfig") -> ModelLimits:
    """The limits of a model whose configuration has been read. Raises ModelError naming the field, without a path."""
    text = config.get_text_config()
    hidden, heads = _number(text, "hidden_size"), _number(text, "num_attention_heads", 0)
    context = next((tokens for field in CONTEXT_FIELDS if (tokens := _number(text, field, 0))), FALLBACK_CONTEXT_TOKENS)
    return ModelLimits(
        context_tokens=context,
        vocab_size=_number(text, "vocab_size"),
        layers=_number(text, "num_hidden_layers"),
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", 0) or heads,
        head_dim=_number(text, "head_dim", 0) or (hidden // heads if heads else 0),
        hidden_size=hidden,
    )


def _number(text: "PretrainedConfig", field: str, default: int | None = None) -> int:
    """A whole number above 0; `default` where the field is missing or null, and no default: it must be there."""
    try:
        value = getattr(text, field, None)
    except RuntimeError as error:  # a heterogeneous model has one for each layer
        raise ModelError(f"config.json: {field} differs between layers, which drafthouse cannot serve") from error
    if value is None and default is not None:
        return default
    if type(value) is not int or value < (1 if default is None else default):
        raise ModelError(f"config.json: {field} is {value!r}, not a whole number above 0")
    return value
