"""The chaos report: what is planted in a good log is found, and counted once."""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from drafthouse.errors import ConfigError
from tests.chaos.event_log import Event, read_log
from tests.chaos.report import MIN_RUNNING, Report, make_report
from tests.chaos.work import Work, make_works

TOKENS = 6
STREAMS = MIN_RUNNING + 2
WORKS = make_works([[1, 2], [3]], STREAMS, TOKENS, seed=3)
NEAR_TIE = 77
"""A token that the judge of these tests excuses."""


@dataclass
class Verdict:
    explained: bool

    def as_json(self) -> dict[str, Any]:
        return {"explained": self.explained}


def judge(work: Work, expected: Sequence[int], found: Sequence[int]) -> Verdict:
    assert list(expected) != list(found), "asked only about texts that differ"
    return Verdict(found[next(i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b)] == NEAR_TIE)


def text(i: int) -> list[int]:
    return [100 * i + position for position in range(TOKENS)]


def request(name: str, i: int, reference: str | None, start: float) -> list[Event]:
    """One token a second from `start + 1` on, the last three by a second attempt."""
    events: list[Event] = [{"event": "start", "t": start, "request": name, "attempt": 1, "reference": reference, **WORKS[i].as_json()}]
    for position, token in enumerate(text(i)):
        attempt = 1 if position < 3 else 2
        at = start + 1 + position + (4 if position >= 3 else 0)
        events.append({"event": "token", "t": at, "request": name, "attempt": attempt, "position": position, "token": token})
    return [*events, {"event": "end", "t": start + TOKENS + 5, "request": name, "attempt": 2, "position": TOKENS, "reason": "length"}]


def fault(t: float, lost: str | None = "process", overlooked: float = 0.0) -> Event:
    return {"event": "fault", "t": t, "kind": "kill-verifier", "pid": 9, "signalled": t - 0.5, "lost": lost, "overlooked": overlooked}


def good_log() -> list[Event]:
    """Streams run from 101 to 111, with a pause of 5 s from 103 on; the signal falls into it."""
    streams = [
        e for i in range(STREAMS) for e in request(f"fault-free-{i}", i, None, 0.0) + request(f"chaos-{i}", i, f"fault-free-{i}", 100.0)
    ]
    return [*streams, fault(104.0)]


def token_line(events: list[Event], name: str, position: int) -> int:
    return next(i for i, e in enumerate(events) if e["event"] == "token" and (e["request"], e["position"]) == (name, position))


def report(events: list[Event]) -> Report:
    return make_report(events, judge)


COUNTS = ("unexplained", "explained", "lost", "doubled", "unfinished", "faults_not_counted", "noticed_late")


def counts(found: Report) -> dict[str, int]:
    return {name: found[name] for name in COUNTS if found[name]}


def test_a_good_log_passes() -> None:
    found = report(good_log())
    assert found["passed"]
    assert counts(found) == {}
    assert (found["faults"], found["streams"], found["tokens"], found["resumed"]) == (1, STREAMS, STREAMS * TOKENS, STREAMS)
    assert found["longest_pause_s"] == found["by_fault"]["kill-verifier"]["pause_s"]["longest"] == 5.0
    assert found["by_fault"]["kill-verifier"]["noticed_s"] == 0.5
    assert found["least_running"] == STREAMS
    assert found["fault_free"] == {"streams": STREAMS, "tokens": STREAMS * TOKENS, "longest_pause_s": 5.0}


@pytest.mark.parametrize("position", [0, 2, TOKENS - 1])
def test_a_lost_token_is_found_and_is_no_divergence(position: int) -> None:
    events = good_log()
    del events[token_line(events, "chaos-4", position)]
    found = report(events)
    assert counts(found) == {"lost": 1}
    assert not found["passed"]


@pytest.mark.parametrize("position", [0, TOKENS - 1])
def test_a_doubled_token_is_found(position: int) -> None:
    events = good_log()
    line = token_line(events, "chaos-4", position)
    events.insert(line, dict(events[line]))
    assert counts(report(events)) == {"doubled": 1}


def test_a_token_too_many_at_the_end_is_doubled_and_no_part_of_the_text() -> None:
    events = good_log()
    line = token_line(events, "chaos-4", TOKENS - 1)
    events.insert(line + 1, {**events[line], "position": TOKENS})
    assert counts(report(events)) == {"doubled": 1}


@pytest.mark.parametrize(("token", "kind"), [(5, "unexplained"), (NEAR_TIE, "explained")])
def test_a_wrong_token_is_judged(token: int, kind: str) -> None:
    events = good_log()
    line = token_line(events, "chaos-4", 3)
    events[line] = {**events[line], "token": token}
    found = report(events)
    assert counts(found) == {kind: 1}
    assert found["passed"] is (kind == "explained")
    assert found["divergences"] == [{"request": "chaos-4", "explained": kind == "explained"}]


def test_a_wrong_token_behind_a_lost_one_is_still_judged() -> None:
    events = good_log()
    line = token_line(events, "chaos-4", 4)
    events[line] = {**events[line], "token": 5}
    del events[token_line(events, "chaos-4", 2)]
    assert counts(report(events)) == {"unexplained": 1, "lost": 1}


def test_a_text_that_stopped_early_is_unexplained() -> None:
    """Numbered without a hole, ended by `stop` where the fault-free text goes on."""
    events = [e for e in good_log() if not (e["event"] == "token" and e["request"] == "chaos-4" and e["position"] >= 4)]
    end = next(i for i, e in enumerate(events) if e["event"] == "end" and e["request"] == "chaos-4")
    events[end] = {**events[end], "reason": "stop", "position": 4}
    with pytest.raises(StopIteration):  # the judge of these tests knows no texts of different lengths
        report(events)
    assert make_report(events, lambda work, expected, found: Verdict(len(expected) == len(found)))["unexplained"] == 1


@pytest.mark.parametrize("how", ["error", "no end"])
def test_an_unfinished_stream_is_found_and_what_came_of_it_is_compared(how: str) -> None:
    events = good_log()
    end = next(i for i, e in enumerate(events) if e["event"] == "end" and e["request"] == "chaos-4")
    if how == "error":
        events[end] = {**events[end], "position": 0, "reason": "error", "error": "UNAVAILABLE: gone"}
    else:
        del events[end]
    del events[token_line(events, "chaos-4", TOKENS - 1)]
    assert counts(report(events)) == {"unfinished": 1}
    line = token_line(events, "chaos-4", 1)
    events[line] = {**events[line], "token": 5}
    assert counts(report(events)) == {"unfinished": 1, "unexplained": 1}


@pytest.mark.parametrize(("t", "lost"), [(100.9, "process"), (111.0, "process"), (104.0, None)])
def test_a_fault_counts_only_with_a_loss_while_enough_streams_run(t: float, lost: str | None) -> None:
    """Before the first tokens, after the last ends, and where nothing was seen to be lost."""
    found = report([*good_log(), fault(t, lost)])
    assert (found["faults"], counts(found), found["passed"]) == (1, {"faults_not_counted": 1}, False)


@pytest.mark.parametrize(("overlooked", "late"), [(3.0, {}), (3.02, {"noticed_late": 1})])
def test_what_was_certainly_noticed_too_late_is_no_pass(overlooked: float, late: dict[str, int]) -> None:
    found = report([*good_log(), fault(104.5, "connection", overlooked)])
    assert (counts(found), found["passed"]) == (late, not late)
    assert found["by_fault"]["kill-verifier"]["overlooked_s"] == overlooked


def test_no_fault_is_no_pass() -> None:
    assert not report(good_log()[:-1])["passed"]


def test_a_missing_fault_free_text_is_refused() -> None:
    events = [e for e in good_log() if e.get("request") != "fault-free-4"]
    with pytest.raises(ConfigError, match="fault-free-4"):
        report(events)


def written(path: pathlib.Path, events: list[Event]) -> pathlib.Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return path


def test_the_log_is_read_as_written(tmp_path: pathlib.Path) -> None:
    assert report(read_log(written(tmp_path / "log", good_log()))) == report(good_log())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"event": "pause", "t": 1.0}, "no event"),
        ({"event": "token", "t": 1.0, "request": "r", "attempt": 1, "token": 4}, "token without position"),
        ({"event": "end", "t": 1.0, "request": "r", "attempt": 1, "position": 0, "reason": "stop"}, "'r' was not started"),
        ([1], "no event"),
    ],
)
def test_a_line_of_another_form_is_refused_by_number(tmp_path: pathlib.Path, line: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"line 1.*{message}"):
        read_log(written(tmp_path / "log", [line]))
