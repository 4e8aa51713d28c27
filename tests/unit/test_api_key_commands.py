"""The command line's part in API keys: hash-key, and the key that generate, status and the benches of a running server send."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import Result
from typer.testing import CliRunner

from benchmarks.load.client import LoadClient, connect_async
from deployments.cli.main import build_cli
from drafthouse.config.security import ApiKeysConfig
from drafthouse.security.api_keys import ApiKeys, generate_key
from tests.unit.test_api_keys import accepts, write

KEY, OTHER = generate_key(), generate_key()


class _Guarded(BaseHTTPRequestHandler):
    """Knows KEY alone."""

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "demo"}], "interval_s": 0.0, "totals": {}}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        speculation = {"drafted": 0, "verified": 0, "accepted": 0, "steps": 2}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "speculation": speculation}
        event = json.dumps({"id": "cmpl-1", "choices": [{"text": "served"}], "usage": usage})
        self._answer(f"data: {event}\n\ndata: [DONE]\n\n".encode())

    def _answer(self, content: bytes) -> None:
        known = self.headers.get("authorization") == f"Bearer {KEY}"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(content if known else b'{"error": {"message": "nobody knows you"}}')

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: test output is for tests."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


COMMANDS = [
    ["generate", "x"],
    ["status"],
    ["bench", "http", "--prompts", "1", "--tokens", "2"],
    ["bench", "load", "--prompts", "1", "--saturation", "1"],
]


def run_with(monkeypatch: pytest.MonkeyPatch, key: str | None, command: list[str], url: str) -> Result:
    monkeypatch.delenv("DRAFTHOUSE_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("DRAFTHOUSE_API_KEY", key)
    return CliRunner().invoke(build_cli(), [*command, "--url", url])


def test_generate_sends_the_key_of_the_environment(monkeypatch, url):
    result = run_with(monkeypatch, f"{KEY}\n", COMMANDS[0], url)
    assert (result.exit_code, result.stdout) == (0, "served\n")


def test_bench_http_sends_the_key_of_the_environment(monkeypatch, url):
    result = run_with(monkeypatch, KEY, COMMANDS[2], url)
    assert result.exit_code == 0, result.output


def test_load_clients_send_the_key_of_the_environment(monkeypatch, url):
    monkeypatch.setenv("DRAFTHOUSE_API_KEY", KEY)

    async def totals() -> dict[str, dict[str, float]]:
        async with connect_async(url) as http:
            return await LoadClient(http, "demo", []).settled_totals()

    assert asyncio.run(totals()) == {}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("key", [None, OTHER, "with a space", "ä"])
def test_the_commands_say_where_the_key_comes_from(monkeypatch, key, command, url):
    result = run_with(monkeypatch, key, command, url)
    assert result.exit_code == 1
    assert "DRAFTHOUSE_API_KEY" in result.stderr
    assert ("nobody knows you" in result.stderr) == (key in (None, OTHER))
    assert key is None or key not in result.output


def hash_key(*options: str, typed: str = ""):
    return CliRunner().invoke(build_cli(), ["hash-key", *options], input=typed)


def test_hash_key_prints_a_line_for_the_file(tmp_path):
    told = hash_key("--note", "alice\nand bob", typed=f"{KEY}\n")
    made = hash_key("--generate")
    path = write(tmp_path / "keys", told.stdout + made.stdout)
    assert KEY not in told.output
    keys = ApiKeys(ApiKeysConfig(file=path))
    new = made.stderr.split()[-1]
    assert new not in made.stdout
    assert accepts(keys, KEY)
    assert accepts(keys, new)


@pytest.mark.parametrize("typed", ["", "short", "with a space in the middle", "ä" * 30])
def test_hash_key_refuses_what_could_be_guessed_or_not_be_sent(typed):
    result = hash_key(typed=typed)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert typed == "" or typed not in result.output
