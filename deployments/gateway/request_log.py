"""What became of each request: one line of the log, lengths, finish reasons, and tokens by API key.

Promises: exactly one line for each choice that was dispatched and for each request that was turned away before; never a prompt, a text or a
key, which is named by the beginning of its hash. Metrics have at most MAX_KEYS keys; tokens of the others count together.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.fields import trace_id_of
from drafthouse.wire.generation_messages import GenerateRequest, SpeculationUsage
from drafthouse.wire.totals import Outcome

logger = logging.getLogger(__name__)

KEY_CHARACTERS = len("sha256:") + 12
"""Of a key's hash: enough to tell keys apart and to find the line in the file of hashes."""

MAX_KEYS = 200
OTHER_KEYS = "others"
NO_KEY = "none"

KEPT_SAMPLES = 10_000
"""Lengths that wait for the exporter; where there is none, the oldest go."""

LEVELS: dict[Outcome, int] = {"unavailable": logging.WARNING, "failed": logging.ERROR}
"""All else is the client's doing or as it should be: INFO."""


def key_label(key_hash: str) -> str | None:
    """What logs and metrics call a key; None without keys."""
    return key_hash[:KEY_CHARACTERS] or None


@dataclass(slots=True)
class RequestRecord:
    """One choice, as far as it has come. `arrived` (seconds, monotonic) is when the client's request did.

    `verifiers` are the replicas that were asked, in order.
    """

    request: GenerateRequest
    request_id: str
    arrived: float
    verifiers: list[str] = field(default_factory=list)
    completion_tokens: int = 0
    first_token_at: float | None = None
    finish_reason: str = ""
    attempt: int = 1
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)
    error: Exception | None = None

    def tokens(self, count: int, attempt: int, usage: SpeculationUsage, now: float) -> None:
        """Records `count` new output tokens and what all until now have cost."""
        self.completion_tokens += count
        self.attempt, self.usage = attempt, usage
        if count and self.first_token_at is None:
            self.first_token_at = now


class RequestLog:
    """`request_id` says what the client of the request being served got in `x-request-id`; empty: it is not known."""

    def __init__(self, model: str, request_id: Callable[[], str]) -> None:
        self.request_id = request_id
        self.samples: dict[str, deque[float]] = {key: deque(maxlen=KEPT_SAMPLES) for key in ("prompt_length", "completion_length")}
        self._model = model
        self._finish, self._key_tokens = Counter[str](), Counter[str]()

    def totals(self) -> dict[str, float]:
        """By metric key."""
        finish = {f"finish.{reason}": float(count) for reason, count in self._finish.items()}
        return finish | {f"key_tokens.{key}": float(count) for key, count in self._key_tokens.items()}

    def ended(self, record: RequestRecord, outcome: Outcome) -> None:
        """A choice has come to its end, whatever it was."""
        request, usage, now = record.request, record.usage, time.monotonic()
        key, prompt_tokens = key_label(request.cache_key), len(request.prompt)
        self._count(key, prompt_tokens, record)
        first_token_s = None if record.first_token_at is None else round(record.first_token_at - record.arrived, 4)
        message = f"request {request.request_id} {outcome}: {record.completion_tokens} tokens" + _because(record.error)
        log_event(
            logger, LEVELS.get(outcome, logging.INFO), "request", message,
            request_id=record.request_id or None, id=request.request_id, key=key, model=self._model, outcome=outcome,
            finish_reason=record.finish_reason or None, prompt_tokens=prompt_tokens, completion_tokens=record.completion_tokens,
            first_token_seconds=first_token_s, seconds=round(now - record.arrived, 4), verifiers=record.verifiers,
            attempts=record.attempt, steps=usage.steps, drafted=usage.drafted, verified=usage.verified, accepted=usage.accepted,
            cached_tokens=usage.cached_tokens, trace_id=trace_id_of(request.traceparent) or None,
        )  # fmt: skip

    def turned_away(self, outcome: Outcome, key_hash: str, error: Exception) -> None:
        """A request ended before a verifier was asked."""
        message = f"request {outcome}" + _because(error)
        known = self.request_id() or None
        log_event(logger, logging.INFO, "request", message, request_id=known, key=key_label(key_hash), model=self._model, outcome=outcome)

    def _count(self, key: str | None, prompt_tokens: int, record: RequestRecord) -> None:
        self.samples["prompt_length"].append(float(prompt_tokens))
        self.samples["completion_length"].append(float(record.completion_tokens))
        if record.finish_reason:
            self._finish[record.finish_reason] += 1
        name = key or NO_KEY
        known = name in self._key_tokens or len(self._key_tokens) < MAX_KEYS
        self._key_tokens[name if known else OTHER_KEYS] += prompt_tokens + record.completion_tokens


MAX_REASON_CHARACTERS = 300


def _because(error: Exception | None) -> str:
    """Errors name fields and sizes, and may repeat what a client wrote: bounded."""
    return "" if error is None else f"; {type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
