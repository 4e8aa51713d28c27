"""What a client may send to /v1/completions, and what /v1/chat/completions shares with it.

Promises: unknown fields are refused, and so is a known field that this system does not serve,
unless it has the value that asks for nothing; types are not coerced.
`speculation` is an extension; sampling fields stand in `sampling_schema`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from deployments.api.openai.grammar_schema import GrammarWish, ResponseFormat, StructuredOutputs
from deployments.api.openai.sampling_schema import Body, SamplingBody, only, shaped
from drafthouse.errors import RequestError
from drafthouse.objective import FIRST_PRIORITY, LAST_PRIORITY, UrgencyWish
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import RAW, LogprobsWish

MAX_STOPS = 16
"""OpenAI takes 4; completion in editors sends 8 to 10."""

MAX_STOP_CHARS = 1024
MAX_CHOICES = 16


def is_prompt(value: Any) -> bool:
    return isinstance(value, str) or is_ids(value) or (isinstance(value, list) and (_all(value, str) or all(map(is_ids, value))))


def is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def no_count(value: Any) -> Any:
    """False asks for none, as in chats."""
    return None if value is False else value


def is_stop(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return True
    return isinstance(value, list) and _all(value, str) and len(value) <= MAX_STOPS


def _all(values: list[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def whole(value: Any) -> Any:
    """16.0 is 16: some clients' languages know one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def limits_tokens(value: int) -> int:
    if value < 1 and value != NO_LIMIT:
        raise PydanticCustomError("range", "must be at least 1, or -1 for all that the context has left")
    return value


NO_LIMIT = -1
LIMIT_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": -1, "not": {"const": 0}}
TokenLimit = Annotated[int, BeforeValidator(whole), AfterValidator(limits_tokens), WithJsonSchema(LIMIT_SCHEMA)]

PROMPT_SCHEMA = TypeAdapter(str | list[str] | list[int] | list[list[int]]).json_schema()
Prompt = Annotated[
    Any,  # the check has seen every item; a union would look at all of them four times, and write an error for each
    shaped("a string, a list of strings, a list of token ids or a list of lists of token ids", is_prompt),
    WithJsonSchema(PROMPT_SCHEMA),
]
Stop = Annotated[str | list[str] | None, shaped(f"a string or a list of at most {MAX_STOPS} strings", is_stop)]


class ObjectiveOptions(Body):
    first_token_ms: float | None = None  # from the request to its first token
    per_token_ms: float | None = None  # of later tokens, on average


class SpeculationOptions(Body):
    mode: Literal["auto", "off", "fixed", "table"] = "auto"
    nodes: int = 16
    depth: int = 8
    width: int = 0
    trace: bool = False  # the answer tells of each verification step
    objective: ObjectiveOptions | None = None  # tokens are worth more where it is at risk


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # with include_usage: in every event, as far as it has come
    include_trace: bool | None = None  # the same as speculation.trace
    include_obfuscation: bool | None = None  # padding against traffic analysis; none is sent either way


Priority = Annotated[int, Field(ge=FIRST_PRIORITY, le=LAST_PRIORITY)]
"""vLLM's: the lower one goes first."""


class GenerationBody(SamplingBody):
    """What both endpoints share beside the sampling fields."""

    model: str
    max_tokens: TokenLimit | None = None
    stop: Stop = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    speculation: SpeculationOptions | None = None
    priority: Priority | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None  # vLLM's name
    user: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed with stream: true", "stream_options")
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def wants_trace(self) -> bool:
        asked = self.stream_options is not None and self.stream_options.include_trace
        return bool(asked or (self.speculation is not None and self.speculation.trace))

    def grammar_wish(self) -> GrammarWish | None:
        """Raises RequestError naming the field that is wrong."""
        form = self.response_format.wish() if self.response_format is not None else None
        if form is not None and self.structured_outputs is not None:
            raise RequestError("structured_outputs and response_format exclude each other; send one", "structured_outputs")
        return self.structured_outputs.wish() if self.structured_outputs is not None else form

    def stops(self) -> tuple[str, ...]:
        """Raises RequestError for a stop string that is empty or too long."""
        return checked_stops([self.stop] if isinstance(self.stop, str) else self.stop or [])

    def speculation_wish(self) -> Speculation:
        """Raises RequestError naming the field out of range."""
        options = self.speculation or SpeculationOptions()
        wish = Speculation(options.mode, options.nodes, options.depth, options.width)
        wish.check()
        return wish

    def urgency_wish(self) -> UrgencyWish:
        """Raises RequestError naming the field out of range."""
        objective = (self.speculation and self.speculation.objective) or ObjectiveOptions()
        wish = UrgencyWish(self.priority, objective.first_token_ms, objective.per_token_ms)
        wish.check()
        return wish


class CompletionRequest(GenerationBody):
    prompt: Prompt

    suffix: Annotated[object, only("")] = None
    echo: bool | None = None
    best_of: int | None = None  # with as many as `n` there is nothing to choose from
    logprobs: Annotated[int | None, BeforeValidator(no_count)] = None

    @model_validator(mode="after")
    def _best_of_chooses_nothing(self) -> Self:
        if self.best_of not in (None, self.choices):
            raise RequestError("best_of: not supported unless it equals n; leave it out", "best_of", "unsupported_value")
        return self

    def logprobs_wish(self) -> LogprobsWish:
        """With `echo` those of the prompt as well. Raises RequestError naming the field out of range."""
        wish = self.checked_wish(LogprobsWish(self.logprobs, self.prompt_logprobs, self.logprobs_mode or RAW), "logprobs")
        if not self.echo or wish.top is None:
            return wish
        return replace(wish, prompt_top=max(wish.top, wish.prompt_top or 0))


def checked_stops(stops: Sequence[str]) -> tuple[str, ...]:
    """Raises RequestError for too many stop strings, or one that is empty or too long."""
    if len(stops) > MAX_STOPS:
        raise RequestError(f"stop has {len(stops)} strings, the limit is {MAX_STOPS}", "stop")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise RequestError(f"a stop string has 1 to {MAX_STOP_CHARS} characters, not {len(stop)}", "stop")
    return tuple(stops)


def check_model(name: str, served: str) -> None:
    """Raises RequestError for another model than this server's."""
    if name != served:
        raise RequestError(f"The model {name[:200]!r} does not exist; this server has {served!r}", "model", "model_not_found", 404)
