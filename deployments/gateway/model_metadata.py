"""What a model's files say about its requests: the context, the tokens that end a text, the sampling its makers advise.

Promises: no weights are read. A file that says what cannot be is a ModelError naming file and field.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import GenerationConfig, PretrainedConfig

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.model_limits import read_config, read_limits
from drafthouse.errors import ModelError, RequestError
from drafthouse.sampling import SamplingParams

GENERATION_CONFIG = "generation_config.json"
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """`context_tokens`: prompt and output together; ids are below `vocab_size`; any of `stop_tokens` ends the text.

    `sampling_defaults` is for what a request leaves open."""

    context_tokens: int
    vocab_size: int
    stop_tokens: tuple[int, ...]
    sampling_defaults: SamplingParams = field(default_factory=SamplingParams)


def load_metadata(
    model: ModelConfig, tokenizer_stop: int | None, sampling_defaults: Literal["generation_config", "none"] = "generation_config"
) -> ModelMetadata:
    """`tokenizer_stop` is what the tokenizer takes for the end of a text. A sequence must also fit into the KV slots of one replica.

    Raises ConfigError or ModelError naming the model.
    """
    limits = read_limits(model.path, model.trust_remote_code)
    generation = _read_generation_config(model.path)
    advised = None if generation is None else generation.eos_token_id
    stops = all_stops([advised, *_configured_stops(model), tokenizer_stop], limits.vocab_size)
    try:
        defaults = advised_sampling(generation) if sampling_defaults == "generation_config" else SamplingParams()
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error
    return ModelMetadata(min(limits.context_tokens, model.kv_tokens), limits.vocab_size, stops, defaults)


def _read_generation_config(path: str) -> GenerationConfig | None:
    """None where there is no such file."""
    try:
        return GenerationConfig.from_pretrained(model_path(path))
    except Exception as error:  # fault boundary: transformers checks fields with errors of many kinds
        if isinstance(error, OSError) and not isinstance(error.__context__, ValueError):  # one that it cannot read has a JSON error within
            return None
        raise ModelError(f"{path}: {GENERATION_CONFIG}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _configured_stops(model: ModelConfig) -> list[Any]:
    """What config.json itself has, for the model or for its text part: where it has none, transformers would put the family's id,
    which may be a common token of this model's."""
    config = read_config(model.path, model.trust_remote_code)
    written, _ = PretrainedConfig.get_config_dict(model_path(model.path))
    text = config.get_text_config()
    parts = [written, *(part for name, part in written.items() if isinstance(part, dict) and getattr(config, name, None) is text)]
    return [part.get("eos_token_id") for part in parts]


def all_stops(sources: Iterable[Any], vocab_size: int) -> tuple[int, ...]:
    """Each source is an id, a list of ids or None. Some files have -1 for none, or ids that the model cannot choose."""
    ids = [token for source in sources for token in (source if isinstance(source, list | tuple) else [source])]
    return tuple(dict.fromkeys(token for token in ids if type(token) is int and 0 <= token < vocab_size))


def advised_sampling(generation: GenerationConfig | None) -> SamplingParams:
    """What generation_config.json says, where it says that the model is to sample. Raises ModelError naming the field."""
    if generation is None or generation.do_sample is not True:
        return SamplingParams()
    given = {name: value for name in SAMPLING_FIELDS if (value := getattr(generation, name, None)) is not None}
    for name, value in given.items():
        if type(value) not in (int, float):
            raise ModelError(f"{GENERATION_CONFIG}: {name} is {value!r}, not a number")
    sampling = SamplingParams(**given)
    try:
        sampling.check()
    except RequestError as error:
        hint = "correct the file, or set gateway.sampling_defaults: none"
        raise ModelError(f"{GENERATION_CONFIG}: {error}; {hint}") from error
    return sampling
