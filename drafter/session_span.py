"""The span of one session in a drafter, with its parts: the draft's prefill, and some of its passes.

Promises: at most a few dozen parts, however long the session is (`drafthouse.telemetry.spans.is_sampled`). Times are on the engine's clock.
"""

from drafthouse.telemetry.spans import OpenSpan, Spans, is_sampled
from drafthouse.wire.session_messages import Open


class SessionSpan:
    def __init__(self, span: OpenSpan, opened: Open) -> None:
        self._span, self._opened_len = span, len(opened.tokens)
        self._catching_up_since: float | None = None
        self._caught_up = False
        self._pass = 0
        span.set({"drafthouse.id": opened.session_id, "drafthouse.epoch": opened.epoch, "drafthouse.opened_tokens": len(opened.tokens)})

    def passed(self, began: float, ended: float, missing: int, nodes: int) -> None:
        """A pass of the draft had a part of it: `missing` tokens are still to be seen, its tree has `nodes`. It prefills until it has seen
        all tokens for the first time."""
        if not self._caught_up:
            self._catching_up_since = began if self._catching_up_since is None else self._catching_up_since
            self._caught_up = not missing
            if self._caught_up:
                self._span.child("draft prefill", self._catching_up_since, ended, {"drafthouse.nodes": nodes})
            return
        if is_sampled(self._pass):
            self._span.child("draft pass", began, ended, {"drafthouse.pass": self._pass, "drafthouse.nodes": nodes})
        self._pass += 1

    def end(self, at: float, tokens: int, dropped: str) -> None:
        """`tokens` are committed by now. `dropped`: why the drafter gave the session up; empty: it did not."""
        self._span.set({"drafthouse.committed_tokens": tokens - self._opened_len, "drafthouse.passes": self._pass + self._caught_up})
        if dropped:
            self._span.failed("dropped", dropped)
        self._span.end(at)


def begun(spans: Spans, opened: Open, now: float) -> SessionSpan | None:
    """None where its verifier has no span of it."""
    span = spans.below("draft", opened.traceparent, now)
    return SessionSpan(span, opened) if span is not None else None
