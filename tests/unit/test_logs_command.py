"""`drafthouse logs`: all replicas' lines in order, by level and by request."""

import json
import os
import pathlib

import pytest
from typer.testing import CliRunner

from deployments.cli import sessions
from deployments.cli.logs import LogReader, chosen
from deployments.cli.main import build_cli


def _request(at: str, request_id: str, answer: str) -> dict:
    return {"asctime": at, "levelname": "INFO", "message": "served", "fields": {"event": "request", "request_id": request_id, "id": answer}}


GATEWAY = [_request("10:00:02", "R1", "cmpl-7-0"), _request("10:00:03", "R2", "cmpl-8-0")]
VERIFIER = [
    {"asctime": "10:00:01", "levelname": "WARNING", "message": "request cmpl-7-0, attempt 1 broke", "fields": {"event": "failover"}},
    {"asctime": "10:00:04", "levelname": "ERROR", "message": "a step failed", "exc_text": "Traceback"},
]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    session = sessions.Session(tmp_path / "session_1_9", 8000, os.getpid(), 1.0)
    serve = session.logs / "serve"
    serve.mkdir(parents=True)
    sessions.mark(session)
    for name, lines in (("Gateway", GATEWAY), ("Verifier", VERIFIER)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (serve / f"replica_drafthouse_{name}_x.log").write_text("INFO not JSON\n" + text)
    found = sessions.marked(tmp_path)
    monkeypatch.setattr(sessions, "marked", lambda: found)
    return serve


def _shown(*options: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(build_cli(), ["logs", "--json", *options])
    return result.exit_code, [json.loads(line)["asctime"][-1] for line in result.stdout.splitlines()]


def test_lines_of_all_replicas_in_order(folder: pathlib.Path) -> None:
    assert _shown() == (0, ["1", "2", "3", "4"])


def test_a_level_and_those_above(folder: pathlib.Path) -> None:
    assert _shown("--level", "warning") == (0, ["1", "4"])
    assert _shown("--level", "loud")[0] == 1


def test_a_request_by_what_its_client_got_or_by_its_answer(folder: pathlib.Path) -> None:
    assert _shown("--request", "R1") == (0, ["1", "2"]), "the failover names the answer's id alone"
    assert _shown("--request", "cmpl-8-0") == (0, ["3"])


def test_a_failover_is_shown_though_the_line_that_tells_its_answer_comes_later() -> None:
    """As with --follow: one look after the other."""
    failover = {"levelname": "WARNING", "message": "attempt 1 broke", "fields": {"event": "failover", "id": "cmpl-7-0"}}
    other = {"levelname": "WARNING", "message": "attempt 1 broke", "fields": {"event": "failover", "id": "cmpl-8-0"}}
    pick = chosen("INFO", "R1")
    assert pick([failover, other]) == []
    assert pick([]) == []
    assert pick(GATEWAY) == [failover, GATEWAY[0]]
    assert pick([failover]) == [failover]
    assert pick([]) == []


def test_a_server_that_never_was(folder: pathlib.Path) -> None:
    assert _shown("--port", "99")[0] == 1


def test_for_people_a_line_says_when_what_and_who(folder: pathlib.Path) -> None:
    output = CliRunner().invoke(build_cli(), ["logs"]).stdout
    assert "10:00:04 ERROR" in output
    assert "Traceback" in output
    assert "id=cmpl-7-0" in output


def test_what_follows_is_read_once_and_half_a_line_later(folder: pathlib.Path) -> None:
    reader = LogReader(folder.parent)
    assert len(reader.new_lines()) == 4
    file = folder / "replica_drafthouse_Gateway_x.log"
    whole = json.dumps(GATEWAY[0]) + "\n"
    with file.open("a") as stream:
        stream.write(whole + whole[:10])
    assert len(reader.new_lines()) == 1
    with file.open("a") as stream:
        stream.write(whole[10:])
    file.rename(folder / "replica_drafthouse_Gateway_x.log.1")
    assert len(reader.new_lines()) == 1, "a rotated file is not read again"
