"""Acceptance traces: what is written is read, what is wrong is named."""

import json
import pathlib
from typing import Any

import pytest

from drafthouse.errors import ConfigError
from simulator.trace import HEADER, RecordedRequest, TraceRequest, read, write, write_joined

GOOD: dict[str, Any] = {
    "workload": "code", "temperature": 0.0, "arrival_s": 0.5, "prompt_tokens": 8, "output_tokens": 2, "latency_s": 0.25,
    "positions": [[[0.5, 0.25], 1], None],
}  # fmt: skip


def _file(folder: pathlib.Path, *lines: Any) -> pathlib.Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_what_is_written_is_read(tmp_path: pathlib.Path, name: str) -> None:
    requests = [TraceRequest.model_validate(GOOD), TraceRequest.model_validate({**GOOD, "arrival_s": 0.0})]
    write(tmp_path / name, requests)
    assert read(tmp_path / name) == [requests[1], requests[0]]  # by arrival


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("arrival_s", -1.0, "arrival_s"),
        ("latency_s", float("nan"), "latency_s"),
        ("latency_s", float("inf"), "latency_s"),
        ("prompt_tokens", 0, "prompt_tokens"),
        ("output_tokens", -4, "output_tokens"),
        ("output_tokens", 3, "positions"),
        ("temperature", -0.5, "temperature"),
        ("positions", [[[0.5, float("nan")], 0], None], "positions.0"),
        ("positions", [[[0.5, -0.1], 0], None], "positions.0"),
        ("positions", [[[0.5], 1], None], "positions.0: hit 1"),
        ("positions", [None, [[0.7, 0.7], 0]], "positions.1: edges add up to 1.4"),
    ],
)
def test_a_wrong_number_is_named_with_its_line_and_field(tmp_path: pathlib.Path, field: str, value: Any, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(_file(tmp_path, HEADER, GOOD, {**GOOD, field: value}))
    assert "line 3" in str(error.value)
    assert named in str(error.value)


def test_an_empty_trace_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        read(_file(tmp_path, HEADER))
    with pytest.raises(ConfigError, match="line 1"):
        read(_file(tmp_path))
    with pytest.raises(ConfigError, match="positions: no request has one"):
        read(_file(tmp_path, HEADER, {**GOOD, "positions": [None, None]}))


def test_other_files_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="header"):
        read(_file(tmp_path, {"format": "other"}))
    with pytest.raises(ConfigError, match=r"absent\.jsonl"):
        read(tmp_path / "absent.jsonl")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"not packed\n")
    with pytest.raises(ConfigError, match=r"broken\.jsonl\.gz"):
        read(broken)


def _recorded(response: str, output_tokens: int = 3) -> RecordedRequest:
    return RecordedRequest(response, "code", 0.0, 0.0, 8, output_tokens, 0.25)


def _drafter_line(session: str, position: int, edges: list[float], hit: int) -> dict[str, Any]:
    return {"session": session, "position": position, "temperature": 0.0, "source": 0, "edges": edges, "hit": hit}


def test_join_places_positions_behind_the_prompt(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "drafters"
    folder.mkdir()
    lines = [_drafter_line("cmpl-1-0", 8, [0.5], 0), _drafter_line("cmpl-1-0", 10, [0.25, 0.12341], -1)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"session": "cmp', encoding="utf-8")
    path = tmp_path / "joined.jsonl"
    assert write_joined(path, [_recorded("cmpl-1"), _recorded("cmpl-2")], folder) == 1  # of the other nothing was drafted
    assert read(path)[0].positions == (((0.5,), 0), None, ((0.25, 0.1234), -1))


def test_join_without_drafts_says_where_it_looked(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"drafter\.trace"):
        write_joined(tmp_path / "joined.jsonl", [_recorded("cmpl-1")], tmp_path)
