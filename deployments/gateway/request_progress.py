"""What a request has so far, through all its attempts, and why an attempt ended. No network, no clock.

Promises: `delivered` grows by what is new and in order; a reply of another attempt is ignored; usage counts the whole request.
"""

from dataclasses import dataclass, field, replace

import grpc

from drafthouse.errors import RequestError, WireError
from drafthouse.policy.sent_prefixes import blocks_of
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage
from drafthouse.wire.settings import retry_after_s

BAD_REQUEST = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.FAILED_PRECONDITION)

NOT_TAKEN = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.ABORTED)
"""The verifier has not begun: it does not know this gateway, or (ABORTED) it drains."""

UNTOLD_S = 1.0
"""When to come again where a refusal does not say."""


class Broken(Exception):
    """This stream is of no more use; another verifier may go on."""


class Refused(Broken):
    """The verifier has no room; it may have after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unreachable(Broken):
    """The verifier has not seen this attempt, or not taken it."""


class Moved(Broken):
    """The verifier drains: nothing is wrong with it or with the request."""


@dataclass(slots=True, eq=False)
class RequestProgress:
    """`request.attempt` is the current one; `deadline` is set while a verifier is looked for."""

    request: GenerateRequest
    delivered: list[int] = field(default_factory=list)
    fingerprint: str | None = None  # None until the first token: until then any target's text would do
    avoid: set[str] = field(default_factory=set)  # replicas that failed or refused since the last new token
    deadline: float | None = None
    fruitless: int = 0  # streams in a row that broke without a token
    refusals: dict[str, float] = field(default_factory=dict)  # since the last new token, by replica: after how many seconds to come again
    resumed: bool = False  # by a verifier that is gone since
    last_failure: str = "none was tried"
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)
    _earlier: SpeculationUsage = field(default_factory=SpeculationUsage)  # of the attempts before

    def blocks(self) -> list[int]:
        """Of the text as it is now, for routing."""
        return blocks_of(self.request.cache_key, self.request.prompt, self.delivered)

    def next_request(self) -> GenerateRequest:
        return replace(self.request, delivered=tuple(self.delivered), resumed=self.resumed)

    def next_attempt(self) -> None:
        self._earlier = self.usage
        self.request = replace(self.request, attempt=self.request.attempt + 1)

    def take(self, reply: GenerateReply, fingerprint: str) -> GenerateReply | None:
        """The new part of a reply, for the caller; None if nothing is new. Raises WireError when tokens before it are missing, and Moved
        when this verifier hands the request over."""
        if (reply.request_id, reply.attempt) != (self.request.request_id, self.request.attempt):
            return None
        done = len(self.delivered)
        if reply.first_token_index > done:
            raise WireError(f"reply begins at output token {reply.first_token_index}, but only {done} have come")
        if reply.finish_reason == "moved":
            raise Moved(reply.error or "it drains")
        tokens = reply.tokens[done - reply.first_token_index :]
        if not tokens and not reply.finish_reason:
            return None
        self.usage = total(self._earlier, reply.usage)
        self.delivered.extend(tokens)
        if tokens:
            self.fingerprint, self.fruitless, self.deadline = fingerprint, 0, None
            self.avoid.clear()
            self.refusals.clear()
        return replace(reply, first_token_index=done, tokens=tokens, usage=self.usage)

    def failed(self, replica: str, error: Broken) -> None:
        """Notes why the attempt on this replica ended, so that the next one goes elsewhere."""
        self.avoid.add(replica)
        self.last_failure = f"{replica}: {error}"
        if isinstance(error, Refused):
            self.refusals[replica] = error.retry_after_s
        if not isinstance(error, Refused | Unreachable):
            self.fruitless += not isinstance(error, Moved)
            self.resumed, self.deadline = True, None

    def end(self) -> GenerateReply | None:
        """The last reply, if the stream broke after the last token but before the verifier could say so."""
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
    )


def translated(error: grpc.aio.AioRpcError) -> Exception:
    """The same as one of our errors: RequestError if the request is wrong, else a Broken."""
    details = error.details() or error.code().name
    if error.code() in BAD_REQUEST:
        return RequestError(details)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(details, retry_after_s(error.trailing_metadata() or ()) or UNTOLD_S)
    if error.code() in NOT_TAKEN:
        return Unreachable(details)
    return Broken(f"{error.code().name}: {details}")
