"""The report of a chaos run, from its log alone.

Promises: pure but for the judge, which is asked about texts that differ from the fault-free one and nothing else; so the
report can be made again from the log at any time. `passed` says that nothing was unexplained, lost, doubled or unfinished
and that every fault counted and was noticed in time.

A fault counts if something was seen to be lost (`tests.chaos.injector`) while at least MIN_RUNNING streams ran. A pause
is the time between two arrivals of one stream; it belongs to the faults whose signal fell into it. Where a token is lost, the
fault-free text's stands in its place, so that one fault of the system is not counted twice.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from drafthouse.errors import ConfigError
from tests.chaos.event_log import Event
from tests.chaos.history import Streamed, Struck, history
from tests.chaos.work import Work

MIN_RUNNING = 16

NOTICE_LIMIT_S = 3.0
"""A stopped process is to be noticed by then (docs/failover.md)."""

Report = dict[str, Any]


class Verdict(Protocol):
    """On one text that differs from the fault-free one."""

    @property
    def explained(self) -> bool: ...

    def as_json(self) -> dict[str, Any]: ...


class Judge(Protocol):
    def __call__(self, work: Work, expected: Sequence[int], found: Sequence[int]) -> Verdict:
        """The two differ."""


def make_report(events: Iterable[Event], judge: Judge) -> Report:
    """Raises ConfigError for a log in which a stream has no fault-free run to compare with."""
    by_name, faults = history(events)
    streams = [s for s in by_name.values() if s.reference is not None]
    verdicts = {s.request: v for s in streams if (v := _verdict(s, _expected(by_name, s), judge)) is not None}
    counted = [f for f in faults if f.lost and _running(streams, f.t) >= MIN_RUNNING]
    unfinished = [s for s in streams if not s.finished]
    report: Report = {
        "faults": len(counted),
        "faults_not_counted": len(faults) - len(counted),
        "streams": len(streams),
        "tokens": sum(len(s.tokens) for s in streams),
        "unexplained": sum(not v.explained for v in verdicts.values()),
        "explained": sum(v.explained for v in verdicts.values()),
        "lost": sum(s.lost for s in streams),
        "doubled": sum(s.doubled for s in streams),
        "unfinished": len(unfinished),
        "noticed_late": sum(f.overlooked > NOTICE_LIMIT_S for f in counted),
        "resumed": sum(s.attempts > 1 for s in streams),
        "longest_pause_s": _longest(streams),
        "fault_free": _fault_free([s for s in by_name.values() if s.reference is None]),
        "by_fault": {kind: _of_kind(streams, [f for f in counted if f.kind == kind]) for kind in sorted({f.kind for f in counted})},
        "least_running": min((_running(streams, f.t) for f in counted), default=0),
        "divergences": [{"request": request, **v.as_json()} for request, v in verdicts.items()],
        "errors": [{"request": s.request, "tokens": len(s.tokens), "error": s.error or "no end in the log"} for s in unfinished],
    }
    bad = ("unexplained", "lost", "doubled", "unfinished", "faults_not_counted", "noticed_late")
    report["passed"] = not any(report[name] for name in bad) and report["faults"] > 0
    return report


def _expected(by_name: dict[str, Streamed], stream: Streamed) -> list[int]:
    reference = by_name.get(stream.reference or "")
    if reference is None or not reference.finished or reference.lost:
        raise ConfigError(f"--log: no whole fault-free text {stream.reference!r} for request {stream.request!r}")
    return [reference.tokens[i] for i in range(len(reference.tokens))]


def _verdict(stream: Streamed, expected: list[int], judge: Judge) -> Verdict | None:
    found: list[int] = []
    for position in range(max(stream.tokens, default=-1) + 1):
        token = stream.tokens.get(position, expected[position] if position < len(expected) else None)
        if token is None:
            break
        found.append(token)
    if stream.lost or not stream.finished:
        expected = expected[: len(found)]
    elif stream.doubled:
        found = found[: stream.said]
    return judge(stream.work, expected, found) if found != expected else None


def _running(streams: Sequence[Streamed], t: float) -> int:
    return sum(s.runs_at(t) for s in streams)


def _longest(streams: Iterable[Streamed]) -> float:
    return round(max((end - start for s in streams for start, end in s.pauses()), default=0.0), 3)


def _fault_free(streams: Sequence[Streamed]) -> Report:
    """What the system does when nothing fails, to compare pauses with."""
    return {"streams": len(streams), "tokens": sum(len(s.tokens) for s in streams), "longest_pause_s": _longest(streams)}


def _of_kind(streams: Sequence[Streamed], faults: Sequence[Struck]) -> Report:
    """`pause_s`: of the streams that ran at the signal, the pause around it; `noticed_s`: from the signal to the loss as
    it was seen; `overlooked_s`: what of it is certainly the cluster's own."""
    pauses = sorted(
        end - start for f in faults for s in streams for start, end in s.pauses() if start <= f.signalled < end
    )  # fmt: skip
    return {
        "faults": len(faults),
        "noticed_s": round(max(f.t - f.signalled for f in faults), 3),
        "overlooked_s": max(f.overlooked for f in faults),
        "pause_s": {"median": round(pauses[len(pauses) // 2], 3), "longest": round(pauses[-1], 3)} if pauses else None,
        "least_running": min(_running(streams, f.t) for f in faults),
    }
