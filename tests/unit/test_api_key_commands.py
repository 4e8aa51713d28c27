"""The command line's part in API keys: hash-key, and the key that generate and status send."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from deployments.cli import build_cli
from drafthouse.api_keys import ApiKeys, generate_key
from drafthouse.security_config import ApiKeysConfig
from tests.unit.test_api_keys import accepts, write

KEY, OTHER = generate_key(), generate_key()


class _Guarded(BaseHTTPRequestHandler):
    """Knows KEY alone."""

    def do_GET(self) -> None:
        known = self.headers.get("authorization") == f"Bearer {KEY}"
        answer = {"data": [{"id": "demo"}]} if known else {"error": {"message": "no"}}
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        known = self.headers.get("authorization") == f"Bearer {KEY}"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"text": "served"}]}\n\ndata: [DONE]\n\n')

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: test output is for tests."""


def generate_with(monkeypatch: pytest.MonkeyPatch, key: str | None):
    monkeypatch.delenv("DRAFTHOUSE_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("DRAFTHOUSE_API_KEY", key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = CliRunner().invoke(build_cli(), ["generate", "x", "--url", f"http://127.0.0.1:{server.server_port}"])
        server.shutdown()
    return result


def test_the_commands_send_the_key_of_the_environment(monkeypatch):
    result = generate_with(monkeypatch, f"{KEY}\n")
    assert (result.exit_code, result.stdout) == (0, "served\n")


@pytest.mark.parametrize("key", [None, OTHER, "with a space", "ä"])
def test_the_commands_say_where_the_key_comes_from(monkeypatch, key):
    result = generate_with(monkeypatch, key)
    assert result.exit_code == 1
    assert "DRAFTHOUSE_API_KEY" in result.stderr
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
