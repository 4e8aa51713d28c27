"""The span of one attempt at one request in a verifier, with its parts: the queue, the prefill, and some of its steps.

Promises: at most a few dozen parts, however long the request is (`drafthouse.telemetry.spans.is_sampled`). Times are on the engine's clock.
"""

from drafthouse.telemetry.spans import OpenSpan, Spans, is_sampled
from drafthouse.wire.generation_messages import GenerateRequest, SpeculationUsage

FAILED = ("error", "refused")


class SequenceSpan:
    def __init__(self, span: OpenSpan, request: GenerateRequest, arrived: float) -> None:
        self._span, self._arrived = span, arrived
        self.traceparent = span.traceparent
        self._began: float | None = None  # of its first step
        self._prefilled = False
        self._step = 0
        span.set(
            {
                "drafthouse.id": request.request_id, "drafthouse.attempt": request.attempt,
                "drafthouse.prompt_tokens": len(request.prompt), "drafthouse.delivered_tokens": len(request.delivered),
                "drafthouse.speculation.mode": request.speculation.mode,
            }
        )  # fmt: skip

    def joined(self, at: float) -> None:
        """It takes part in a step that began then."""
        if self._began is None:
            self._began = at
            self._span.child("queue", self._arrived, at)

    def stepped(self, began: float, ended: float, device_s: float, price: float, tokens: int, verified: int, accepted: int) -> None:
        """A step made `tokens` for it. What led to the first ones is the prefill."""
        if not self._prefilled:
            self._prefilled = True
            self._span.child("prefill", began if self._began is None else self._began, ended)
            return
        if is_sampled(self._step):
            self._span.child(
                "verify step", began, ended,
                {
                    "drafthouse.step": self._step, "drafthouse.tokens": tokens, "drafthouse.verified_tokens": verified,
                    "drafthouse.accepted_tokens": accepted, "drafthouse.device_seconds": device_s, "drafthouse.price": price,
                },
            )  # fmt: skip
        self._step += 1

    def end(self, at: float, how: str, usage: SpeculationUsage, output_tokens: int, error: str) -> None:
        """`how`: the finish reason, or what ended it before it had one."""
        if how in FAILED:
            self._span.failed(how, error)
        self._span.set(
            {
                "drafthouse.ended": how, "drafthouse.output_tokens": output_tokens,
                "drafthouse.cached_tokens": usage.cached_tokens, "drafthouse.steps": usage.steps,
                "drafthouse.drafted_tokens": usage.drafted, "drafthouse.verified_tokens": usage.verified,
                "drafthouse.accepted_tokens": usage.accepted,
            }
        )  # fmt: skip
        self._span.end(at)


def begun(spans: Spans, request: GenerateRequest, arrived: float) -> SequenceSpan | None:
    """None where its gateway has no span of it."""
    span = spans.below("verify", request.traceparent, arrived)
    return SequenceSpan(span, request, arrived) if span is not None else None
