"""The sampling fields that all generation endpoints share, and what bodies are made of.

Promises: those of `schema`. OpenAI's fields, and vLLM's under its own names: top_k, min_p, repetition_penalty, min_tokens, ignore_eos,
stop_token_ids, include_stop_str_in_output, bad_words, allowed_token_ids, prompt_logprobs, and logprobs_mode by request.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema
from pydantic_core import PydanticCustomError, core_schema

from drafthouse.errors import RequestError
from drafthouse.sampling import MAX_ALLOWED, MAX_BIASED, MAX_SEED, SamplingParams
from drafthouse.token_logprobs import LogprobsWish

NO_SEED = -1
"""Other engines' clients say so for none."""

MAX_STOP_TOKENS = 256
MAX_BAD_WORDS = 1024  # each has two forms, at the beginning of a word and within
MAX_BAD_WORD_CHARS = 1024


def only(*neutral: object, hint: str = "leave it out") -> GetPydanticSchema:
    """For a field that is not served: passes null and the values that ask for nothing. `hint`: what to do instead."""

    def check(value: object) -> object:
        if value is None or any(value == n and isinstance(value, bool) == isinstance(n, bool) for n in neutral):
            return value
        raise PydanticCustomError("unsupported", "not supported; {hint}", {"hint": hint})

    return GetPydanticSchema(
        lambda source, handler: core_schema.no_info_after_validator_function(check, handler(source)),
        lambda schema, handler: {"enum": [None, *neutral]},
    )


def shaped(wanted: str, good: Callable[[Any], bool]) -> BeforeValidator:
    """One message for a field of several forms, instead of one for each form."""

    def check(value: Any) -> Any:
        if not good(value):
            raise PydanticCustomError("shape", "must be {wanted}", {"wanted": wanted})
        return value

    return BeforeValidator(check)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]


class SamplingBody(Body):
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASED)] | None = None  # by token id
    allowed_token_ids: Annotated[TokenIds, Field(min_length=1, max_length=MAX_ALLOWED)] | None = None
    bad_words: Annotated[list[str], Field(max_length=MAX_BAD_WORDS)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None  # generate to max_tokens, past the model's own end of text; other engines' servers call it so too
    seed: Annotated[int, Field(ge=NO_SEED, le=MAX_SEED)] | None = None
    prompt_logprobs: int | None = None
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] | None = None

    @property
    def drawn_seed(self) -> int | None:
        """None: one is to be drawn."""
        return None if self.seed == NO_SEED else self.seed

    def sampling(self, defaults: SamplingParams) -> SamplingParams:
        """`defaults` is for fields that are left open; bad words are the planner's to tokenize. Raises RequestError naming the field out
        of range."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens")
        given: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        given["logit_bias"] = tuple((token_id(key), bias) for key, bias in sorted((self.logit_bias or {}).items()))
        given["allowed_token_ids"] = tuple(sorted(set(self.allowed_token_ids or ())))
        sampling = replace(defaults, **given)
        sampling.check()
        return sampling

    def checked_wish(self, wish: LogprobsWish, name: str) -> LogprobsWish:
        """Raises RequestError; `name` is what the client calls the tokens beside each one."""
        wish.check(name)
        if self.prompt_logprobs is not None and getattr(self, "stream", None):
            raise RequestError("prompt_logprobs is not supported with stream: true; leave one of them out", "prompt_logprobs")
        return wish

    def words(self) -> tuple[str, ...]:
        """Bad words. Raises RequestError for one that is empty or too long."""
        return checked_words(self.bad_words or ())


def checked_words(words: Sequence[str]) -> tuple[str, ...]:
    """Raises RequestError for too many bad words, or one that is empty or too long."""
    if len(words) > MAX_BAD_WORDS:
        raise RequestError(f"bad_words has {len(words)} entries, the limit is {MAX_BAD_WORDS}", "bad_words")
    for word in words:
        if not 1 <= len(word.strip()) <= MAX_BAD_WORD_CHARS:
            raise RequestError(f"a bad word has 1 to {MAX_BAD_WORD_CHARS} characters, not {len(word.strip())}", "bad_words")
    return tuple(words)


def token_id(key: str) -> int:
    """Of a key in JSON. Raises RequestError."""
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise RequestError(f"logit_bias has the key {key[:40]!r}, which is no token id", "logit_bias")
    return int(key)
