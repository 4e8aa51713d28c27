"""From a user's validated request to the requests that verifiers take: the one place that checks it against the model.

Promises: what comes out has a known model, a prompt of at least one token inside the vocabulary,
prompt and output within the context, sampling in range and a seed; anything else is a RequestError
naming the field. What is too long for any tokenizer is refused before it is tokenized.
HTTP and gRPC share it. Choice `i` of several takes `derive_seed(seed, i)`; one alone takes the seed.
"""

import secrets
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.grammar_schema import GrammarWish
from deployments.api.openai.sampling_schema import MAX_STOP_TOKENS
from deployments.api.openai.schema import NO_LIMIT, CompletionRequest, check_model, is_ids
from deployments.gateway.chat_reading import ChatReading
from deployments.gateway.model_metadata import ModelMetadata
from deployments.gateway.output_format import OutputFormat
from deployments.gateway.text_codec import TextCodec
from deployments.gateway.text_stream import StopRule
from drafthouse.config.api import ApiConfig
from drafthouse.errors import CONTEXT_EXCEEDED, RequestError
from drafthouse.grammars.checker import GrammarChecker
from drafthouse.noise import derive_seed
from drafthouse.objective import NO_WISH, UrgencyWish
from drafthouse.sampling import MAX_SEED, SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import NO_LOGPROBS, LogprobsWish
from drafthouse.wire.generation_messages import GenerateRequest

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions."""

MAX_LISTED = 1 << 21
"""Numbers in the lists of all choices together: each choice goes to a verifier with its own."""

MAX_SCORES = 1 << 19
"""Logprobs of prompts in one answer: microseconds of the event loop each."""

MAX_TOTAL_CHOICES = 256
"""Prompts times `n` of one request: each is a request of its own to a verifier."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a request asks for besides its prompts. `max_tokens` None: what remains of the context. `ignore_eos`: the model's own stop
    tokens do not end the text, `stop_token_ids` do. `cut`: more of them than the context has left become those that it has left.
    `include_stop`: what ends the text stands in it. `echo`: the prompt comes first. `prompt_top`: what the client itself asks of the
    prompt's logprobs; an echo with logprobs may need more.
    `prediction`: tokens that the client expects. `grammar`: what the output must be. `trace`: the client is told of each step. `urgency`:
    what it says itself of its priority and objective."""

    model: str
    sampling: SamplingParams
    speculation: Speculation
    max_tokens: int | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    choices: int = 1
    ignore_eos: bool = False
    cut: bool = False
    prediction: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    logprobs: LogprobsWish = NO_LOGPROBS
    prompt_top: int | None = None
    echo: bool = False
    grammar: GrammarWish | None = None
    trace: bool = False
    urgency: UrgencyWish = NO_WISH


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """One user request. `requests[p * choices + c]` is choice `c` of prompt `p`. `notes` are what its client should know of it. `echoes`:
    the text of each prompt, if it is to come before its outputs. `named`: within it a RequestError is raised under the names that the
    client's own body has for its fields."""

    id: str
    requests: tuple[GenerateRequest, ...]
    stops: tuple[str, ...]
    seed: int
    choices: int
    format: OutputFormat
    notes: tuple[str, ...] = ()
    include_stop: bool = False
    echoes: tuple[str, ...] = ()
    prompt_top: int | None = None
    arrived: float | None = None  # seconds, monotonic
    chat: bool = False
    urgency: UrgencyWish = NO_WISH
    named: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def stop_rule(self) -> StopRule:
        return StopRule(self.stops, self.include_stop, self.requests[0].sampling.min_tokens)

    @property
    def max_tokens(self) -> int:
        """That all choices together may generate."""
        return sum(request.max_tokens for request in self.requests)

    @property
    def traced(self) -> bool:
        """Whether the client is told of each step."""
        return self.requests[0].trace

    @property
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many choices it has."""
        return sum(len(request.prompt) for request in self.requests[:: self.choices])

    def call_id(self, choice: int, index: int) -> str:
        """Of the call `index` in an output. Only where calls are parsed."""
        tools = self.format.tools
        assert tools is not None, "calls are parsed only where their format is known"
        return tools.call_id(f"{self.id}/{choice}", index)


class RequestPlanner:
    def __init__(self, model: str, codec: TextCodec, metadata: ModelMetadata, api: ApiConfig | None = None) -> None:
        """Without `api` its defaults hold. Raises ConfigError for a parser of the model's calls that cannot be used."""
        self.model, self.codec, self.metadata, self.api = model, codec, metadata, api or ApiConfig()
        self._chats = ChatReading(codec, self.api)
        self._grammars = GrammarChecker(codec.tokenizer_text)

    def close(self) -> None:
        """Ends the process that checks grammars."""
        self._grammars.close()

    def completion(self, body: CompletionRequest, kind: str = "cmpl", field: str = "prompt") -> RequestPlan:
        """`kind` and `field`: as `plan` has them."""
        check_model(body.model, self.model)
        settings = self._settings(body, DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens)
        prompts = [body.prompt] if isinstance(body.prompt, str) or (body.prompt and is_ids(body.prompt)) else body.prompt
        return self.plan(kind, prompts, settings, field)

    def chat(self, body: ChatRequest, kind: str = "chatcmpl") -> RequestPlan:
        """`kind` begins the id."""
        check_model(body.model, self.model)
        settings = self._settings(body, body.token_limit)
        prompt, output = self.read_chat(body)
        if body.prediction is not None:
            settings = replace(settings, prediction=self._predicted(body.prediction.text()))
        settings = replace(settings, sampling=replace(settings.sampling, thinking=self._chats.budget(body, output)))
        settings = replace(settings, grammar=self._chats.grammar(body, output))
        return self.plan(kind, [prompt], settings, field="messages", output=output)

    def read_chat(self, body: ChatRequest) -> tuple[list[int], OutputFormat]:
        """(prompt, how outputs are read). Raises RequestError."""
        self.check_chars(sum(message.chars() for message in body.messages), "messages")
        self.check_chars(body.tool_chars(), "tools")
        return self._chats.read(body)

    def _predicted(self, text: str) -> tuple[int, ...]:
        """Its tokens, as many as the context holds. Raises RequestError."""
        self.check_chars(len(text), "prediction.content")
        return tuple(self.codec.encode(text, special=False)[: self.metadata.context_tokens])

    def plan(
        self,
        kind: str,
        prompts: Sequence[str | Sequence[int]],
        settings: Settings,
        field: str = "prompt",
        output: OutputFormat | None = None,
    ) -> RequestPlan:
        """Prompts as text or ids. `kind` begins the id, `field` is what errors of the prompt name. Without `output` all is content."""
        check_model(settings.model, self.model)
        if not prompts:
            raise RequestError(f"{field} is empty", field)
        total = len(prompts) * settings.choices
        if total > MAX_TOTAL_CHOICES:
            raise RequestError(f"{len(prompts)} prompts with n = {settings.choices} is more than {MAX_TOTAL_CHOICES} choices in all", field)
        seed = secrets.randbelow(MAX_SEED + 1) if settings.seed is None else settings.seed
        if not 0 <= seed <= MAX_SEED:
            raise RequestError(f"seed must be between 0 and 2**63 - 1, not {seed}", "seed")
        settings = replace(settings, sampling=self._sampling(settings))
        if total * settings.sampling.listed > MAX_LISTED:
            named = "allowed_token_ids, bad_words and logit_bias"
            raise RequestError(f"{named} are too long together for {total} choices in all", "n")
        plan_id = f"{kind}-{uuid.uuid4().hex}"
        requests: list[GenerateRequest] = []
        notes: dict[str, None] = {}  # each once
        echoes: list[str] = []
        for text in prompts:
            prompt = self._prompt(text, field)
            echoes += [text if isinstance(text, str) else self.codec.text_of(prompt)] if settings.echo else []
            max_tokens = self._max_tokens(len(prompt), settings.max_tokens, field, settings.cut)
            if settings.sampling.min_tokens > max_tokens:
                raise RequestError(f"min_tokens is {settings.sampling.min_tokens}, above max_tokens, {max_tokens}", "min_tokens")
            if max_tokens < (settings.max_tokens or 0):
                notes[f"max_tokens: {max_tokens} instead of {settings.max_tokens}, which is all that the context has left"] = None
            for _ in range(settings.choices):
                i = len(requests)
                own_seed = seed if total == 1 else derive_seed(seed, i)
                requests.append(self._request(f"{plan_id}-{i}", prompt, own_seed, max_tokens, settings))
        self._check_scores(requests)
        output = output or OutputFormat(self.codec.token_bytes)
        return RequestPlan(
            plan_id, tuple(requests), settings.stops, seed, settings.choices, output, tuple(notes), settings.include_stop, tuple(echoes),
            settings.prompt_top, chat=field == "messages", urgency=settings.urgency,
        )  # fmt: skip

    def _check_scores(self, requests: Sequence[GenerateRequest]) -> None:
        """Raises RequestError for more logprobs of prompts in one answer than a gateway should hold."""
        tops = ((len(request.prompt), request.logprobs.prompt_top) for request in requests)
        entries = sum(tokens * (top + 1) for tokens, top in tops if top is not None)
        if entries > MAX_SCORES:
            message = f"prompt_logprobs: these prompts and choices make {entries} entries, and one answer has at most {MAX_SCORES}"
            raise RequestError(message, "prompt_logprobs")

    def _settings(self, body: CompletionRequest | ChatRequest, max_tokens: int | None) -> Settings:
        sampling = body.sampling(self.metadata.sampling_defaults)
        wish, ignore_eos = body.speculation_wish(), bool(body.ignore_eos)
        limit = None if max_tokens == NO_LIMIT else max_tokens
        return Settings(
            body.model, sampling, wish, limit, body.drawn_seed, body.stops(), body.choices, ignore_eos, not self.api.strict,
            bad_words=body.words(),
            stop_token_ids=tuple(body.stop_token_ids or ()), include_stop=bool(body.include_stop_str_in_output),
            logprobs=body.logprobs_wish(), prompt_top=body.prompt_logprobs, echo=isinstance(body, CompletionRequest) and bool(body.echo),
            grammar=body.grammar_wish(), trace=body.wants_trace, urgency=body.urgency_wish(),
        )  # fmt: skip

    def _sampling(self, settings: Settings) -> SamplingParams:
        """With the tokens of bad words. Raises RequestError naming the field that holds an id outside the vocabulary."""
        vocab_size = self.metadata.vocab_size
        outside = next((token for token in settings.stop_token_ids if not 0 <= token < vocab_size), None)
        if outside is not None:
            raise RequestError(f"stop_token_ids has {outside}, outside the vocabulary of {vocab_size}", "stop_token_ids")
        if len(settings.stop_token_ids) > MAX_STOP_TOKENS:
            count = len(settings.stop_token_ids)
            raise RequestError(f"stop_token_ids has {count} entries, the limit is {MAX_STOP_TOKENS}", "stop_token_ids")
        grammar = settings.grammar.grammar if settings.grammar is not None else None
        sampling = replace(settings.sampling, bad_words=self.codec.encode_words(settings.bad_words), grammar=grammar)
        if settings.grammar is not None:
            self._check_grammar(settings.grammar)
        sampling.check()
        sampling.check_ids(vocab_size)
        return sampling

    def _check_grammar(self, wish: GrammarWish) -> None:
        """So that what is wrong with it is said here, and does no harm to a verifier. Raises RequestError and OverloadError."""
        try:
            wish.grammar.check()
            self._grammars.check(wish.grammar)
        except RequestError as error:
            raise RequestError(f"{wish.field}: {error}", wish.field) from error

    def check_chars(self, chars: int, field: str) -> None:
        """Raises RequestError for a text that no tokens of the context could hold, before it costs the time to make them."""
        context = self.metadata.context_tokens
        most = context * self.codec.longest_token
        if chars > most:
            message = f"{field} has {chars} characters, and the {context} tokens of the context hold at most {most}"
            raise RequestError(message, field, code=CONTEXT_EXCEEDED)

    def _prompt(self, text: str | Sequence[int], field: str) -> tuple[int, ...]:
        if isinstance(text, str):
            self.check_chars(len(text), field)
        ids = tuple(self.codec.encode(text)) if isinstance(text, str) else tuple(text)
        if not ids:
            raise RequestError(f"{field} is empty: there must be at least one token to go on from", field)
        self.check_ids(ids, field)
        return ids

    def check_ids(self, ids: Sequence[int], field: str) -> None:
        """Raises RequestError for an id outside the vocabulary."""
        suspect = min(ids, default=0) if min(ids, default=0) < 0 else max(ids, default=0)
        if not 0 <= suspect < self.metadata.vocab_size:
            raise RequestError(f"{field} has token id {suspect}, outside the vocabulary of {self.metadata.vocab_size}", field)

    def _max_tokens(self, prompt_tokens: int, wanted: int | None, field: str, cut: bool) -> int:
        """The output tokens wanted, or all that the context has left; with `cut`, the lesser of both. Raises RequestError."""
        left = self.metadata.context_tokens - prompt_tokens
        if left >= 1 and cut:
            return min(wanted or left, left)
        if left < 1 or (wanted or 1) > left:
            asked = f"{prompt_tokens} in the prompt and {wanted or 1} to generate"
            message = f"The context holds {self.metadata.context_tokens} tokens, but {prompt_tokens + (wanted or 1)} are asked for: {asked}"
            raise RequestError(message, "max_tokens" if left >= 1 else field, code=CONTEXT_EXCEEDED)
        return wanted or left

    def _request(self, request: str, prompt: tuple[int, ...], seed: int, max_tokens: int, settings: Settings) -> GenerateRequest:
        return GenerateRequest(
            request_id=request, attempt=1, prompt=prompt, delivered=(), sampling=settings.sampling, seed=seed, max_tokens=max_tokens,
            stop_tokens=self._stop_tokens(settings), speculation=settings.speculation, logprobs=settings.logprobs,
            prediction=settings.prediction, trace=settings.trace,
        )  # fmt: skip

    def _stop_tokens(self, settings: Settings) -> tuple[int, ...]:
        own = () if settings.ignore_eos else self.metadata.stop_tokens
        return tuple(dict.fromkeys(own + settings.stop_token_ids))
