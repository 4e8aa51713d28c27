"""`drafthouse batch` against real HTTP: no line lost or done twice, whatever ends a run."""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from deployments.cli.batch_files import ENDPOINTS, BatchLine, BatchOutput
from deployments.cli.main import build_cli
from drafthouse.errors import ConfigError

USAGE = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5, "speculation": {"verified": 8, "accepted": 2, "steps": 2}}


class Answers:
    """A server whose answers a test scripts: `script(body, turn)` gives (status, headers); `turn` counts the requests of one prompt."""

    def __init__(self, script=lambda body, turn: (200, {}), delay_s: float = 0.0):
        self.script, self.delay_s = script, delay_s
        self.asked: Counter[str] = Counter()
        self.paths: set[str] = set()
        self.most = self._now = 0
        self._lock = threading.Lock()

    def answer(self, body: dict) -> tuple[int, dict[str, str], dict]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.asked[body["prompt"]] += 1
            turn = self.asked[body["prompt"]]
        time.sleep(self.delay_s)
        status, headers = self.script(body, turn)
        with self._lock:
            self._now -= 1
        if status == 200:
            return 200, headers, {"model": body["model"], "choices": [{"text": body["prompt"].upper()}], "usage": USAGE}
        return status, headers, {"error": {"message": f"refused with {status}"}}


@contextmanager
def serving(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {}, {"data": [{"id": "only"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answers.paths.add(self.path)
            self._send(*answers.answer(body))

        def _send(self, status: int, headers: dict[str, str], body: dict) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(raw)))
            self.send_header("x-request-id", "req-1")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def line(custom_id: str, **changed: object) -> dict:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": custom_id}} | changed


def write(path: pathlib.Path, lines: list) -> pathlib.Path:
    path.write_text("".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in lines))
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_cli(), ["batch", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def answered(path: pathlib.Path) -> dict[str, dict]:
    lines = [json.loads(raw) for raw in path.read_text().splitlines()]
    assert len({found["custom_id"] for found in lines}) == len(lines), "a line was answered twice"
    return {found["custom_id"]: found for found in lines}


def test_each_url_is_asked(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "in.jsonl", [line(url, url=url) for url in ENDPOINTS])
    answers = Answers()
    with serving(answers) as url:
        assert run("--input", source, "--output", tmp_path / "out.jsonl", "--url", url)[0] == 0
    assert answers.paths == set(ENDPOINTS) == {"/v1/completions", "/v1/chat/completions", "/v1/responses"}


def test_every_line_gets_its_answer_in_openais_form(tmp_path: pathlib.Path) -> None:
    ids = [f"é-{number}" for number in range(20)]
    source, output = write(tmp_path / "in.jsonl", [line(custom_id) for custom_id in ids]), tmp_path / "out.jsonl"
    answers = Answers(delay_s=0.02)
    with serving(answers) as url:
        code, text = run("--input", source, "--output", output, "--url", url, "--concurrency", 4)
    assert code == 0, text
    found = answered(output)
    assert set(found) == set(ids)
    assert all(found[custom_id]["response"]["body"]["choices"][0]["text"] == custom_id.upper() for custom_id in ids)
    assert found[ids[0]]["response"] == {"status_code": 200, "request_id": "req-1", "body": found[ids[0]]["response"]["body"]}
    assert found[ids[0]]["error"] is None
    assert found[ids[0]]["response"]["body"]["model"] == "only"  # lines that name none get the server's one model
    assert 1 < answers.most <= 4


def test_a_run_goes_on_where_the_one_before_was_killed(tmp_path: pathlib.Path) -> None:
    ids = [str(number) for number in range(60)]
    source, output = write(tmp_path / "in.jsonl", [line(custom_id) for custom_id in ids]), tmp_path / "out.jsonl"
    answers = Answers(delay_s=0.05)
    with serving(answers) as url:
        code = "from deployments.cli.main import main; main()"
        command = [sys.executable, "-c", code, "batch", "--input", source, "--output", output, "--url", url, "--concurrency", "4"]
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as first:
            while not output.exists() or output.read_bytes().count(b"\n") < 5:
                assert first.poll() is None, "it ended before it was killed"
                time.sleep(0.01)
            first.send_signal(signal.SIGKILL)
        before = set(answered(output))
        with output.open("ab") as file:
            file.write(b'{"id": "batch_req_12", "custom_id": "torn", "resp')
        assert 5 <= len(before) < len(ids)
        status, text = run("--input", source, "--output", output, "--url", url)
    assert status == 0, text
    assert set(answered(output)) == set(ids)
    assert all(answers.asked[custom_id] == 1 for custom_id in before), "what had its answer was asked again"


def test_what_passes_is_waited_for_and_what_stays_is_written(tmp_path: pathlib.Path) -> None:
    def script(body: dict, turn: int) -> tuple[int, dict[str, str]]:
        passing = {"full": (429, {"retry-after": "0.01"}), "away": (503, {"retry-after": "0.01"}), "broken": (500, {"retry-after": "0.01"})}
        if body["prompt"] == "wrong":
            return 400, {}
        return passing[body["prompt"]] if body["prompt"] == "broken" or turn < 8 else (200, {})

    source = write(tmp_path / "in.jsonl", [line(name) for name in ("full", "away", "broken", "wrong")])
    answers = Answers(script)
    with serving(answers) as url:
        code, text = run("--input", source, "--output", tmp_path / "out.jsonl", "--url", url)
        assert code == 1, text
        assert "2 of them with an error" in text
        again, text = run("--input", source, "--output", tmp_path / "out.jsonl", "--url", url)
    statuses = {name: found["response"]["status_code"] for name, found in answered(tmp_path / "out.jsonl").items()}
    assert statuses == {"full": 200, "away": 200, "broken": 500, "wrong": 400}
    assert answers.asked == {"full": 8, "away": 8, "broken": 5, "wrong": 1}
    assert again == 1, "errors of an earlier run still count"


def test_a_server_that_goes_away_for_a_while_costs_no_line(tmp_path: pathlib.Path) -> None:
    source, output = write(tmp_path / "in.jsonl", [line(str(number)) for number in range(8)]), tmp_path / "out.jsonl"

    class Cut(Exception):
        pass

    def script(body: dict, turn: int) -> tuple[int, dict[str, str]]:
        if turn == 1:
            raise Cut  # the handler's thread ends and the connection with it
        return 200, {}

    with serving(Answers(script)) as url:
        code, text = run("--input", source, "--output", output, "--url", url)
    assert code == 0, text
    assert len(answered(output)) == 8


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([line("a"), "{not json"], "line 2: it is no JSON"),
        ([["a"]], "line 1: it must be an object"),
        ([line("a"), line("a")], "custom_id 'a' stands in two lines"),
        ([line("a", url="/v1/embeddings")], "url '/v1/embeddings' is none of"),
        ([line("a", method="GET")], "method 'GET'"),
        ([line("a", body="text")], "body must be an object"),
        ([line("a", body={"stream": True})], "body.stream"),
        ([line("")], "custom_id must be a text"),
        ([line("a", priority=1)], "unknown key 'priority'"),
        ([line("a", body={"temperature": float("nan")})], "line 1"),
        (['{"custom_id": "\\ud83d", "url": "/v1/completions", "body": {}}'], "line 1"),
        ([], "it holds no requests"),
    ],
)
def test_a_wrong_input_is_refused_before_anything_is_asked(tmp_path: pathlib.Path, lines: list, says: str) -> None:
    source, output = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    code, text = run("--input", source, "--output", output, "--url", "http://127.0.0.1:9")
    assert code == 1
    assert says in text
    assert not output.exists()


def test_a_key_that_is_let_in_no_more_ends_the_run_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    source, output = write(tmp_path / "in.jsonl", [line("a"), line("b")]), tmp_path / "out.jsonl"
    with serving(Answers(lambda body, turn: (401, {}))) as url:
        code, text = run("--input", source, "--output", output, "--url", url, "--concurrency", 1)
    assert code == 1
    assert "401" in text
    assert output.read_bytes() == b""


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ('{"custom_id": "z", "response": {"status_code": 200}}\n', "the input has no custom_id 'z'"),
        ('{"a": 1}\n', "it is no answer of a batch"),
        ('{"a": 1}', "it is no answer of a batch"),
        ('{"custom_id": "a", "response": {"status_code": 200}}\n' * 2, "is answered twice"),
    ],
)
def test_an_output_of_something_else_is_left_alone(tmp_path: pathlib.Path, held: str, says: str) -> None:
    source, output = write(tmp_path / "in.jsonl", [line("a")]), tmp_path / "out.jsonl"
    output.write_text(held)
    code, text = run("--input", source, "--output", output)
    assert code == 1
    assert says in text
    assert output.read_text() == held


def test_two_runs_do_not_share_an_output(tmp_path: pathlib.Path) -> None:
    with BatchOutput(tmp_path / "out.jsonl", ["a"]) as output:
        with pytest.raises(ConfigError, match="another run is writing it"):
            BatchOutput(tmp_path / "out.jsonl", ["a"])
        output.write(BatchLine("a", "/v1/completions", {}), 200, "", {})
    assert set(answered(tmp_path / "out.jsonl")) == {"a"}


def test_a_full_disk_leaves_no_torn_line(tmp_path: pathlib.Path) -> None:
    with BatchOutput(tmp_path / "out.jsonl", ["a", "b"]) as output:
        output.write(BatchLine("a", "/v1/completions", {}), 200, "", {})
        before = (tmp_path / "out.jsonl").read_bytes()
        with limited_file_size(len(before) + 10), pytest.raises(OSError, match="disk is full|File too large"):
            output.write(BatchLine("b", "/v1/completions", {}), 200, "", {})
    assert (tmp_path / "out.jsonl").read_bytes() == before


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail as on a full disk: first in part, then with EFBIG."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
