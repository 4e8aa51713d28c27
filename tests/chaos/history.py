"""A log's events as streams and faults, and what can be counted of them without a model.

Promises: pure. A token is *lost* when its position is missing although a later one came or the server says that it was
sent, or when the text ended for its length before it; *doubled* when its position came before, or when more came than the
server says it sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.event_log import Event
from tests.chaos.work import Work, from_json


@dataclass(slots=True)
class Streamed:
    """One request as its client saw it. `tokens` by position, `arrivals` their times in order; `said` is the server's count."""

    request: str
    reference: str | None
    work: Work
    started: float
    tokens: dict[int, int] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    repeated: int = 0
    attempts: int = 1
    ended: float | None = None
    reason: str = ""
    error: str = ""
    said: int = 0

    @property
    def finished(self) -> bool:
        return self.reason in ("stop", "length")

    @property
    def lost(self) -> int:
        due = max(self.tokens, default=-1) + 1
        if self.finished:
            due = max(due, self.said, self.work.max_tokens if self.reason == "length" else 0)
        return due - len(self.tokens)

    @property
    def doubled(self) -> int:
        return self.repeated + (max(0, len(self.tokens) - self.said) if self.finished else 0)

    def pauses(self) -> list[tuple[float, float]]:
        """(from, to) without a token, from the first token on: what comes before it is the wait for a place and the prompt."""
        return list(zip(self.arrivals, self.arrivals[1:], strict=False))

    def runs_at(self, t: float) -> bool:
        """Its first token has come and its end has not."""
        return bool(self.arrivals) and self.arrivals[0] <= t and (self.ended is None or t < self.ended)


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault; `lost` at `t` after the signal at `signalled`, and certainly not noticed for `overlooked` seconds."""

    t: float
    kind: str
    pid: int
    signalled: float
    lost: str | None
    overlooked: float


def history(events: Iterable[Event]) -> tuple[dict[str, Streamed], list[Struck]]:
    """Streams by request, and faults, in order."""
    streams: dict[str, Streamed] = {}
    faults: list[Struck] = []
    for event in events:
        if event["event"] == "fault":
            faults.append(Struck(event["t"], event["kind"], event["pid"], event["signalled"], event["lost"], event["overlooked"]))
        elif event["event"] == "start":
            streams[event["request"]] = Streamed(event["request"], event["reference"], from_json(event), event["t"])
        else:
            _add(streams[event["request"]], event)
    return streams, faults


def _add(stream: Streamed, event: Event) -> None:
    stream.attempts = max(stream.attempts, event["attempt"])
    if event["event"] == "end":
        stream.ended, stream.reason, stream.said, stream.error = event["t"], event["reason"], event["position"], event.get("error", "")
        return
    stream.repeated += event["position"] in stream.tokens
    stream.tokens.setdefault(event["position"], event["token"])
    stream.arrivals.append(event["t"])
