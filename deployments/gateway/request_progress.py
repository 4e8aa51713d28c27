"""What a request has so far, through all its attempts, and why an attempt ended. No network, no clock.

Promises: `delivered` and `scored` grow by what is new and in order; usage counts the whole request. Of a verifier that leaves out
logprobs that were asked for, nothing is taken. A step's trace is passed on where all of its tokens are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from drafthouse.errors import RequestError
from drafthouse.policy.sent_prefixes import blocks_of
from drafthouse.token_logprobs import TokenLogprob
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, Refusal, RefusalKind, SpeculationUsage
from drafthouse.wire.totals import MoveReason

UNTOLD_S = 1.0
"""When to come again where a refusal does not say."""


DRAINS, HANGS = "it drains", "its device does not come back from a step"


class Broken(Exception):
    """This attempt is of no more use; another verifier may go on. `detail` is for the log alone: a client is not told what another
    process raised."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class Errored(Broken):
    """The verifier gave this request up, with a last reply that says so."""


class Refused(Broken):
    """The verifier has no room; it may have after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unreachable(Broken):
    """The verifier has not seen this attempt, or not taken it."""


class Unable(Unreachable):
    """The verifier is of an older version, which would leave aside what this request asks for."""


class Stalled(Broken):
    """The verifier lives, but its device does not come back from a step. `blamed`: the request was there when that step began, so that it
    may be the cause."""

    def __init__(self, reason: str, blamed: bool) -> None:
        super().__init__(reason)
        self.blamed = blamed


WORDS: dict[MoveReason, str] = {"drain": DRAINS, "room": "there was room elsewhere", "spread": "another was far emptier"}


class Moved(Broken):
    """Nothing is wrong with the verifier or with the request."""

    def __init__(self, why: MoveReason) -> None:
        super().__init__(WORDS[why])
        self.why = why


@dataclass(slots=True, eq=False)
class RequestProgress:
    """`request.attempt` is the current one; `deadline` is set while a verifier is looked for."""

    request: GenerateRequest
    began: float  # seconds, of the clock of `now`
    delivered: list[int] = field(default_factory=list)
    fingerprint: str | None = None  # None until the first token: until then any target's text would do
    avoid: set[str] = field(default_factory=set)  # replicas that failed or refused since the last new token
    errored: set[str] = field(default_factory=set)  # replicas that gave it up
    unable: set[str] = field(default_factory=set)  # replicas that do not know what it asks for
    deadline: float | None = None
    fruitless: int = 0  # attempts in a row that broke without a token
    refusals: dict[str, float] = field(default_factory=dict)  # since the last new token, by replica: after how many seconds to come again
    resumed: bool = False  # an earlier attempt was admitted
    had_turn: bool = False  # in a verifier's fair queue, though it has no token yet
    spreads: int = 0  # moves to verifiers that were emptier
    broken: Broken | None = None  # why nothing more of the current attempt is taken
    last_failure: str = "none was tried"
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)
    first_at: float | None = None  # when the first token came
    scored: int = 0  # prompt tokens whose logprobs have come, the first one included, which has none
    _earlier: SpeculationUsage = field(default_factory=SpeculationUsage)  # of the attempts before

    def blocks(self) -> list[int]:
        """Of the text as it is now, for routing."""
        return blocks_of(self.request.cache_key, self.request.prompt, self.delivered)

    def next_request(self, now: float) -> GenerateRequest:
        """Of the attempt that begins `now`, with what has passed of its objective."""
        request = replace(
            self.request, delivered=tuple(self.delivered), resumed=self.resumed, scored=self.scored,
            had_turn=self.had_turn or bool(self.delivered),
        )  # fmt: skip
        if request.objective is None:
            return request
        since_first_s = 0.0 if self.first_at is None else now - self.first_at
        return replace(request, waited_s=request.waited_s + now - self.began, since_first_s=since_first_s)

    def next_attempt(self) -> None:
        self._earlier, self.broken = self.usage, None
        self.request = replace(self.request, attempt=self.request.attempt + 1)

    def take(self, replies: Sequence[GenerateReply], fingerprint: str, now: float) -> tuple[GenerateReply, ...]:
        """What is new in replies of this attempt, for the caller. Sets `broken` where tokens are missing, and where this verifier
        gives the request up or hands it over."""
        news = []
        for reply in replies:
            try:
                if (new := self._new(reply)) is not None:
                    news.append(new)
            except Broken as error:
                self.broken = error
                break
        if self.first_at is None and self.delivered:
            self.first_at = now
        if news:
            self.fingerprint, self.fruitless, self.deadline = fingerprint, 0, None
            self.avoid.clear()
            self.refusals.clear()
        return tuple(news)

    def _new(self, reply: GenerateReply) -> GenerateReply | None:
        """Raises Broken."""
        done = len(self.delivered)
        if reply.first_token_index > done:
            raise Broken(f"a reply begins at output token {reply.first_token_index}, but only {done} have come")
        if reply.finish_reason == "error":
            raise Errored("it gave the request up", reply.error)
        if reply.finish_reason == "moved":
            raise Moved("drain")
        if reply.finish_reason == "returned":
            raise Moved("room")
        tokens = reply.tokens[done - reply.first_token_index :]
        prompt_logprobs = self._scores(reply)
        if not tokens and not reply.finish_reason and not prompt_logprobs:
            return None
        logprobs = self._logprobs(reply, len(tokens))
        first_prompt_index, self.scored = max(1, self.scored), self.scored + len(prompt_logprobs)
        self.usage = total(self._earlier, reply.usage) if self.resumed else reply.usage
        self.delivered.extend(tokens)
        if self.usage is reply.usage and reply.first_token_index == done and len(prompt_logprobs) == len(reply.prompt_logprobs):
            return reply
        return replace(
            reply, first_token_index=done, tokens=tokens, usage=self.usage, logprobs=logprobs,
            first_prompt_index=first_prompt_index if prompt_logprobs else 0, prompt_logprobs=prompt_logprobs,
            trace=reply.trace if len(tokens) == len(reply.tokens) else None,
        )  # fmt: skip

    def _logprobs(self, reply: GenerateReply, new: int) -> tuple[TokenLogprob, ...]:
        """Of the last `new` tokens. Raises Broken where they are missing."""
        if self.request.logprobs.top is None:
            return ()
        if len(reply.logprobs) != len(reply.tokens):
            raise Broken("it sends tokens without the logprobs that were asked for")
        return reply.logprobs[len(reply.logprobs) - new :]

    def _scores(self, reply: GenerateReply) -> tuple[TokenLogprob, ...]:
        """What is new of the prompt's logprobs. Raises Broken where some are missing."""
        if self.request.logprobs.prompt_top is None:
            return ()
        self.scored = max(1, self.scored)
        new = reply.prompt_logprobs[self.scored - reply.first_prompt_index :] if reply.prompt_logprobs else ()
        missing = reply.first_prompt_index > self.scored if reply.prompt_logprobs else False
        if missing or (reply.tokens and self.scored < len(self.request.prompt)):
            raise Broken(f"logprobs of the prompt are missing from token {self.scored} on")
        return new

    def failed(self, replica: str, error: Broken) -> None:
        """Notes why the attempt on this replica ended, so that the next one goes elsewhere."""
        self.avoid.add(replica)
        if isinstance(error, Moved):
            self.spreads += error.why == "spread"
            self.had_turn = self.had_turn or error.why == "room"
        self.last_failure = f"{replica}: {error}"
        if isinstance(error, Refused):
            self.refusals[replica] = error.retry_after_s
        if isinstance(error, Unable):
            self.unable.add(replica)
        if isinstance(error, Errored):
            self.errored.add(replica)
            self.resumed = self.resumed or bool(self.delivered)  # where nothing was delivered, it has no claim to a place
            self.fruitless, self.deadline = self.fruitless + 1, None
        elif not isinstance(error, Refused | Unreachable):
            self.fruitless += error.blamed if isinstance(error, Stalled) else not isinstance(error, Moved)
            self.resumed, self.deadline = True, None

    def end(self) -> GenerateReply | None:
        """The last reply, if the attempt broke after the last token but before the verifier could say so."""
        if self.delivered and self.delivered[-1] in self.request.stop_tokens:
            reason = "stop"
        elif len(self.delivered) >= self.request.max_tokens:
            reason = "length"
        else:
            return None
        return GenerateReply(self.request.request_id, self.request.attempt, len(self.delivered), (), reason, usage=self.usage)


def total(a: SpeculationUsage, b: SpeculationUsage) -> SpeculationUsage:
    """Of two attempts, one after the other. The prompt counts as cached where the first that ran at all found it so."""
    return SpeculationUsage(
        drafted=a.drafted + b.drafted,
        verified=a.verified + b.verified,
        accepted=a.accepted + b.accepted,
        steps=a.steps + b.steps,
        synthetic=a.synthetic or b.synthetic,
        cached_tokens=a.cached_tokens if a.steps else b.cached_tokens,
        predicted=a.predicted + b.predicted,
        predicted_accepted=a.predicted_accepted + b.predicted_accepted,
    )


def refused(refusal: Refusal) -> Exception:
    """The same as one of our errors: RequestError if the request is wrong, else a Broken."""
    match refusal.kind:
        case RefusalKind.WRONG:
            return RequestError(refusal.reason)
        case RefusalKind.FULL:
            return Refused(refusal.reason, refusal.retry_after_s or UNTOLD_S)
        case RefusalKind.NOT_TAKEN:
            return Unreachable(refusal.reason)
