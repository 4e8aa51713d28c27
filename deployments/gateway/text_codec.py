"""The target's tokenizer, chat template and limits: everything a gateway knows about the model.

Promises: no weights are read; what the model cannot do (no chat template, a tokenizer that cannot
be streamed) is a typed error that says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from deployments.gateway.detokenizer import TokenBytes
from drafthouse.config.serving import ModelConfig, model_path
from drafthouse.engine.model_limits import read_config, read_limits
from drafthouse.errors import ModelError, RequestError


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """`context_tokens`: prompt and output together; ids are below `vocab_size`; any of `stop_tokens` ends the text."""

    context_tokens: int
    vocab_size: int
    stop_tokens: tuple[int, ...]


class TextCodec:
    """Text to token ids, for prompts and for chats. Thread-safe: encoding changes no state."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ModelError("the target's tokenizer has no tokenizer.json form, which drafthouse needs")
        backend.no_truncation()  # a prompt that is too long is refused, never cut
        backend.no_padding()
        self._tokenizer = tokenizer
        self._backend = backend
        self.token_bytes = TokenBytes(backend)

    def encode(self, text: str) -> list[int]:
        """The prompt's ids, with the special tokens the model expects around a prompt. Raises RequestError for what is not Unicode."""
        return self._ids(text, "prompt", special_tokens=True)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The chat's ids, ready for the assistant's turn. Raises RequestError when the template refuses the messages."""
        if not self._tokenizer.chat_template:
            raise RequestError("this model has no chat template; use /v1/completions", "messages", code="no_chat_template")
        try:
            text = self._tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise RequestError(f"the model's chat template refuses these messages: {error}", "messages") from error
        return self._ids(str(text), "messages", special_tokens=False)

    def _ids(self, text: str, field: str, special_tokens: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell a lone surrogate
            raise RequestError(f"{field} is not valid Unicode: {error.reason}", field) from error
        return list(self._backend.encode(text, add_special_tokens=special_tokens).ids)


def load_codec(model: ModelConfig) -> TextCodec:
    """Raises ConfigError or ModelError naming the model."""
    path = model_path(model.path)
    try:
        return TextCodec(AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{model.path}: no usable tokenizer: {error}") from error


def load_limits(model: ModelConfig) -> RequestLimits:
    """From config.json and generation_config.json. A sequence must also fit into the KV slots of one replica.

    Raises ConfigError or ModelError naming the model.
    """
    limits = read_limits(model.path)
    try:
        eos: Any = GenerationConfig.from_pretrained(model_path(model.path)).eos_token_id
    except OSError:  # the file is optional
        eos = None
    if eos is None:
        eos = read_config(model.path).get_text_config().eos_token_id
    stops = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    return RequestLimits(min(limits.context_tokens, model.kv_tokens), limits.vocab_size, stops)
