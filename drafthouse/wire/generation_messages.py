"""What gateway and verifier say to each other, as frozen dataclasses, and the way to protobuf and back.

Promises: `from_..._proto` raises WireError on anything that breaks the form (sizes, ranges), naming
the field. (request, attempt) in both directions shows the receiver what is stale.
"""

import math
from dataclasses import asdict, dataclass, field
from enum import IntEnum

from drafthouse.errors import RequestError, WireError
from drafthouse.objective import FIELDS as OBJECTIVE_FIELDS
from drafthouse.objective import Objective, check_priority, objective_of
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import NO_LOGPROBS, LogprobsWish, TokenLogprob
from drafthouse.wire.fields import cache_key, check_length, identifier, sampling_of, sampling_proto, seed_of, traceparent_of
from drafthouse.wire.step_trace import StepTrace, to_trace_proto, trace_of
from protos import dataplane_pb2 as pb


@dataclass(frozen=True, slots=True)
class SpeculationUsage:
    """Tokens drafted for a request, verified by the target and accepted, and its decode steps; `synthetic` marks a text whose
    acceptance was drawn instead of compared, which is not the target's. `cached_tokens` of the prompt were not prefilled: their KV
    was in the prefix cache. `predicted` of the verified tokens were drafted by the client's prediction, `predicted_accepted` accepted.
    `forced` output tokens were the only ones that a grammar left."""

    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    steps: int = 0
    synthetic: bool = False
    cached_tokens: int = 0
    predicted: int = 0
    predicted_accepted: int = 0
    forced: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One attempt at one request. `delivered` are output tokens that earlier attempts delivered. `resumed`: an earlier attempt was
    admitted by a verifier that is gone now, so this one has room beyond a full queue. `cache_key` names whose traffic may be
    remembered together; empty: no one's. KV of common prefixes is shared within one key, the empty one included. `had_turn`: its turn
    came at another verifier, where it ran or was given back, so that it waits behind no one who has not had theirs. Of the prompt's
    `logprobs`, if any are wished for, earlier attempts delivered those of the first `scored` tokens; the first one has none.
    `prediction`: tokens that the client expects. `trace`: replies are to tell of their steps; a verifier may leave that aside.
    `traceparent`: the gateway's span of it, for the verifier's own spans; empty: there is none.
    `priority` and `objective` say what its tokens are worth and never what they are. When this attempt was sent, the client had asked
    `waited_s` ago, and had the first of the delivered tokens for `since_first_s`; both are told where there is an objective."""

    request_id: str
    attempt: int
    prompt: tuple[int, ...]
    delivered: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int
    stop_tokens: tuple[int, ...]
    speculation: Speculation
    cache_key: str = ""
    resumed: bool = False
    prediction: tuple[int, ...] = ()
    had_turn: bool = False
    logprobs: LogprobsWish = NO_LOGPROBS
    scored: int = 0
    trace: bool = False
    traceparent: str = ""
    priority: int = 0
    objective: Objective | None = None
    waited_s: float = 0.0
    since_first_s: float = 0.0

    @property
    def uneven(self) -> bool:
        """Whether its tokens may be worth more or less than those of others."""
        return self.priority != 0 or self.objective is not None

    @property
    def unscored(self) -> int:
        """Prompt tokens whose logprobs are still to be delivered."""
        return 0 if self.logprobs.prompt_top is None else len(self.prompt) - max(1, self.scored)

    @property
    def wire_tokens(self) -> int:
        """Numbers that it carries; each takes a few bytes."""
        lists = (self.prompt, self.delivered, self.prediction, self.stop_tokens)
        return sum(map(len, lists)) + self.sampling.listed


@dataclass(frozen=True, slots=True)
class GenerateReply:
    """Output tokens `first_token_index ...`; `finish_reason` (stop, length, error, moved, returned) is empty while it goes on. `moved`:
    this verifier has stopped working on the request, and another one should take over. `returned`: the same, as its gateway asked; it
    waited here. `logprobs` of all these tokens, if they are wished for; before the first token those of the prompt, in pieces, each
    from token `first_prompt_index` on. `trace`: of the step that made the tokens, where it is asked for."""

    request_id: str
    attempt: int
    first_token_index: int
    tokens: tuple[int, ...]
    finish_reason: str = ""
    error: str = ""
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)
    logprobs: tuple[TokenLogprob, ...] = ()
    first_prompt_index: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    trace: StepTrace | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The gateway wants no more of this attempt."""

    request_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """There is room elsewhere for `count` of the gateway's requests that wait; `begun`: for texts that have begun, too."""

    count: int
    begun: bool


class RefusalKind(IntEnum):
    """Not taken: another verifier may take it. Full: so may this one, later. Wrong: none will."""

    NOT_TAKEN = 0
    FULL = 1
    WRONG = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """The attempt has not been begun, or (kind WRONG) cannot go on. `retry_after_s` is of kind FULL; 0: not known."""

    request_id: str
    attempt: int
    kind: RefusalKind
    reason: str
    retry_after_s: float = 0.0


def to_request_proto(request: GenerateRequest) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=request.request_id, attempt=request.attempt, prompt=request.prompt, delivered=request.delivered,
        sampling=sampling_proto(request.sampling), seed=request.seed, max_tokens=request.max_tokens,
        stop_tokens=request.stop_tokens, speculation=pb.Speculation(**asdict(request.speculation)),
        cache_key=request.cache_key, resumed=request.resumed, prediction=request.prediction, had_turn=request.had_turn,
        top_logprobs=request.logprobs.top, prompt_top_logprobs=request.logprobs.prompt_top, logprobs_mode=request.logprobs.mode,
        scored=request.scored, trace=request.trace, traceparent=request.traceparent, priority=request.priority,
        objective=_objective_proto(request),
    )  # fmt: skip


def from_request_proto(m: pb.GenerateRequest) -> GenerateRequest:
    check_length("prompt", len(m.prompt) + len(m.delivered))
    check_length("prediction", len(m.prediction))
    if not m.prompt:
        raise WireError("prompt is empty")
    if len(m.delivered) >= m.max_tokens:
        raise WireError(f"max_tokens is {m.max_tokens}, but {len(m.delivered)} are delivered already")
    speculation = Speculation(m.speculation.mode, m.speculation.nodes, m.speculation.depth, m.speculation.width)
    top, prompt_top = (getattr(m, name) if m.HasField(name) else None for name in ("top_logprobs", "prompt_top_logprobs"))
    logprobs = LogprobsWish(top, prompt_top, m.logprobs_mode or NO_LOGPROBS.mode)
    if m.scored > len(m.prompt):
        raise WireError(f"scored is {m.scored}, but the prompt has {len(m.prompt)} tokens")
    if prompt_top is not None and m.delivered and max(1, m.scored) < len(m.prompt):
        raise WireError(f"scored is {m.scored} of {len(m.prompt)}, but output is delivered already")
    try:
        speculation.check()
        logprobs.check()
        check_priority(m.priority)
    except RequestError as error:
        raise WireError(str(error)) from error
    return GenerateRequest(
        request_id=identifier(m.request_id), attempt=m.attempt, prompt=tuple(m.prompt), delivered=tuple(m.delivered),
        sampling=sampling_of(m.sampling), seed=seed_of(m.seed), max_tokens=m.max_tokens, stop_tokens=tuple(m.stop_tokens),
        speculation=speculation, cache_key=cache_key(m.cache_key), resumed=m.resumed, prediction=tuple(m.prediction), had_turn=m.had_turn,
        logprobs=logprobs, scored=m.scored, trace=m.trace, traceparent=traceparent_of(m.traceparent),
        priority=m.priority, objective=_objective_of(m),
        waited_s=_seconds("waited_s", m.objective.waited_s), since_first_s=_seconds("since_first_s", m.objective.since_first_s),
    )  # fmt: skip


def _objective_proto(request: GenerateRequest) -> pb.Objective | None:
    if request.objective is None:
        return None
    return pb.Objective(
        **dict(zip(OBJECTIVE_FIELDS, request.objective.in_ms, strict=True)), waited_s=request.waited_s, since_first_s=request.since_first_s
    )


def _objective_of(m: pb.GenerateRequest) -> Objective | None:
    if not m.HasField("objective"):
        return None
    for name in OBJECTIVE_FIELDS:
        value = getattr(m.objective, name)
        if not 0.0 <= value < math.inf:
            raise WireError(f"objective.{name} is {value}, not a number of milliseconds")
    return objective_of(m.objective.first_token_ms, m.objective.per_token_ms)


def _seconds(name: str, value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise WireError(f"objective.{name} is {value}, not a number of seconds")
    return value


def to_reply_proto(reply: GenerateReply) -> pb.GenerateReply:
    usage = pb.SpeculationUsage(**asdict(reply.usage))
    return pb.GenerateReply(
        request_id=reply.request_id, attempt=reply.attempt, first_token_index=reply.first_token_index, tokens=reply.tokens,
        finish_reason=reply.finish_reason, error=reply.error, usage=usage, logprobs=_logprobs_proto(reply.logprobs),
        first_prompt_index=reply.first_prompt_index, prompt_logprobs=_logprobs_proto(reply.prompt_logprobs),
        trace=None if reply.trace is None else to_trace_proto(reply.trace),
    )  # fmt: skip


def from_reply_proto(m: pb.GenerateReply) -> GenerateReply:
    u = m.usage
    counts = (u.drafted, u.verified, u.accepted, u.steps, u.synthetic, u.cached_tokens, u.predicted, u.predicted_accepted, u.forced)
    usage = SpeculationUsage(*counts)
    return GenerateReply(
        m.request_id, m.attempt, m.first_token_index, tuple(m.tokens), m.finish_reason, m.error, usage,
        _logprobs_of(m.logprobs), m.first_prompt_index, _logprobs_of(m.prompt_logprobs), trace_of(m),
    )  # fmt: skip


def _logprobs_proto(logprobs: tuple[TokenLogprob, ...]) -> pb.TokenLogprobs | None:
    if not logprobs:
        return None
    return pb.TokenLogprobs(
        logprobs=[each.logprob for each in logprobs], ranks=[each.rank for each in logprobs],
        top_ids=[token for each in logprobs for token in each.top_ids],
        top_logprobs=[value for each in logprobs for value in each.top_logprobs],
    )  # fmt: skip


def _logprobs_of(m: pb.TokenLogprobs) -> tuple[TokenLogprob, ...]:
    """None of them where their numbers do not fit: whoever has asked for them misses them."""
    count = len(m.logprobs)
    if not count or len(m.ranks) != count or len(m.top_ids) != len(m.top_logprobs) or len(m.top_ids) % count:
        return ()
    top, ids, values = len(m.top_ids) // count, tuple(m.top_ids), tuple(m.top_logprobs)
    return tuple(
        TokenLogprob(logprob, rank, ids[i * top : (i + 1) * top], values[i * top : (i + 1) * top])
        for i, (logprob, rank) in enumerate(zip(m.logprobs, m.ranks, strict=True))
    )


def to_refusal_proto(refusal: Refusal) -> pb.Refusal:
    return pb.Refusal(**asdict(refusal))


def from_refusal_proto(m: pb.Refusal) -> Refusal:
    """A kind that is not known is as good as not taken."""
    kind = RefusalKind(m.kind) if m.kind <= max(RefusalKind) else RefusalKind.NOT_TAKEN
    return Refusal(m.request_id, m.attempt, kind, m.reason, m.retry_after_s)
