"""A drafter without a draft model: what it has to know of the target instead, read without its weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoConfig

from drafthouse.config.serving import ModelConfig, StageConfig, model_path
from drafthouse.errors import ModelError


@dataclass(frozen=True, slots=True)
class WithoutModel:
    """Tokens in the vocabulary and in the context; `fingerprint` is that of the stages, under which their calibration is kept."""

    vocab_size: int
    context: int
    fingerprint: str


def without_model(target: ModelConfig, stages: Sequence[StageConfig]) -> WithoutModel:
    """Raises ConfigError or ModelError when the target's configuration cannot be read."""
    try:
        text = AutoConfig.from_pretrained(model_path(target.path)).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"target.path: {target.path}: cannot read the model's configuration: {error}") from error
    kinds = " ".join(stage.kind for stage in stages)
    context = int(getattr(text, "max_position_embeddings", 0) or 2048)
    return WithoutModel(text.vocab_size, context, hashlib.sha256(f"stages {kinds}".encode()).hexdigest()[:16])
