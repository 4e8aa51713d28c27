"""A drafter without a draft model: what it has to know of the target instead, read without its weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig, StageConfig
from drafthouse.engine.model_limits import read_limits
from drafthouse.engine.vocabulary import tokenizer_text, vocabulary_digest
from drafthouse.errors import DrafthouseError
from drafthouse.grammars.compiler import Tokenizer, no_tokenizer


@dataclass(frozen=True, slots=True)
class WithoutModel:
    """Tokens in the vocabulary and in the context; `fingerprint` is that of the stages, under which their calibration is kept;
    `vocabulary` and `tokenizer` are the target's. No forward runs."""

    vocab_size: int
    context: int
    fingerprint: str
    vocabulary: str = ""
    forward: str = ""
    row_invariant: bool = False
    threads: str = ""
    tokenizer: Tokenizer = no_tokenizer


def without_model(target: ModelConfig, stages: Sequence[StageConfig]) -> WithoutModel:
    """Raises ConfigError or ModelError when the target's configuration cannot be read."""
    try:
        limits = read_limits(target.path, target.trust_remote_code)
    except DrafthouseError as error:
        raise type(error)(f"target.path: {error}") from error
    kinds = " ".join(stage.kind for stage in stages)
    fingerprint = hashlib.sha256(f"stages {kinds}".encode()).hexdigest()[:16]
    path = model_path(target.path)
    vocabulary = vocabulary_digest(path, target.trust_remote_code)
    tokenizer = partial(tokenizer_text, path, target.trust_remote_code)
    return WithoutModel(limits.vocab_size, limits.context_tokens, fingerprint, vocabulary, tokenizer=tokenizer)
