"""`drafthouse chat` against a small server: from a pipe, and in a terminal with its keys."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from deployments.cli.chat import Answer
from deployments.cli.draft_colours import COLOURS, DraftColours, legend, painted
from deployments.cli.main import build_cli
from drafthouse.config.serving import SOURCE_KINDS
from drafthouse.wire.step_trace import OWN

PIECES = ("Hel", "lo ", "é🙂")
USAGE = {"prompt_tokens": 7, "completion_tokens": 12, "speculation": {"drafted": 9, "verified": 8, "accepted": 5, "steps": 4}}
CTRL_D = b"\x04"


class Server(ThreadingHTTPServer):
    """Answers every chat with PIECES; one whose last message says "slow" goes on for ever; "refuse" is answered with 400."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict] = []
        self.gone = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._begin(200, "application/json")
        self.wfile.write(json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append({"path": self.path, **body})
        if "refuse" in (text := body["messages"][-1]["content"]):
            self._begin(400, "application/json")
            self.wfile.write(json.dumps({"error": {"message": "the context is full"}}).encode())
            return
        self._begin(200, "text/event-stream")
        traced = body["stream_options"].get("include_trace")
        for piece in ("", *PIECES):
            told = {"trace": [{"tokens": [{"text": piece, "source": "model" if piece == PIECES[0] else "target"}]}]} if traced else {}
            self._event({"choices": [{"delta": {"content": piece}, **told}]})
        try:
            while "slow" in text:
                self._event({"choices": [{"delta": {"content": "."}}]})
                time.sleep(0.02)
        except OSError:
            self.server.gone.set()
            return
        self._event({"choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()

    def _event(self, event: dict) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: test output is for tests."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def piped(server: Server, lines: str, *options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(build_cli(), ["chat", "--url", server.url, *options], input=lines)
    return result.exit_code, result.stdout, result.stderr


def test_each_line_of_a_pipe_is_a_prompt_and_only_answers_come_out(server: Server) -> None:
    answer = "".join(PIECES)
    assert piped(server, "one\n\n two \n") == (0, f"{answer}\n{answer}\n", "")
    turn = [{"role": "user", "content": "one"}, {"role": "assistant", "content": answer}]
    assert [body["messages"] for body in server.bodies] == [turn[:1], [*turn, {"role": "user", "content": "two"}]]


def test_options_go_into_the_request(server: Server) -> None:
    options = ("--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "9", "--seed", "3", "--model", "other")
    assert piped(server, "hi", *options)[0] == 0
    [body] = server.bodies
    assert body == {
        "path": "/v1/chat/completions",
        "model": "other",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_by_default_it_asks_the_one_model_without_a_seed(server: Server) -> None:
    piped(server, "hi")
    [body] = server.bodies
    assert body["model"] == "tiny"
    assert "seed" not in body


def test_reset_forgets_all_but_the_system_message_and_exit_ends(server: Server) -> None:
    assert piped(server, "one\n/reset\ntwo\n/exit\nthree\n", "--system", "s")[0] == 0
    system = {"role": "system", "content": "s"}
    assert [body["messages"] for body in server.bodies] == [[system, {"role": "user", "content": text}] for text in ("one", "two")]


def test_from_a_pipe_the_first_refusal_ends_it(server: Server) -> None:
    code, out, err = piped(server, "refuse\nnext\n")
    assert (code, out) == (1, "")
    assert "the context is full" in err
    assert len(server.bodies) == 1


def test_the_numbers_of_an_answer() -> None:
    assert Answer("x", 2.0, 0.25, USAGE).numbers() == (
        "12 tokens, 6.0 tokens/s, first text after 0.25 s; accepted 5 of 8 verified, 3.00 tokens a step"
    )
    assert Answer("", 2.0, None, {"completion_tokens": 0}).numbers() == "0 tokens, 0.0 tokens/s"
    assert Answer("x", 2.0, 0.25).numbers() == "stopped, first text after 0.25 s"
    assert Answer("", 2.0).numbers() == "stopped"


class Terminal:
    """The command on a terminal of its own; `until` returns what it showed, escape sequences left out."""

    def __init__(self, url: str):
        self._keys, screen = pty.openpty()
        # Ctrl-C works even where the tests run in the background of a shell, which has its children ignore it.
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from deployments.cli.main import main; main()"
        command = [sys.executable, "-c", program, "chat", "--url", url]
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "200"}
        self.process = subprocess.Popen(command, stdin=screen, stdout=screen, stderr=screen, env=environment, start_new_session=True)
        os.close(screen)
        self._seen = ""

    def press(self, keys: bytes) -> None:
        os.write(self._keys, keys)

    def until(self, pattern: str, seconds: float = 60.0) -> str:
        """What was shown up to the pattern's end; later calls look behind it."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            ready, _, _ = select.select([self._keys], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no {pattern!r} in {self._seen!r}")
            self._seen += os.read(self._keys, 4096).decode(errors="replace").replace("\r", "")
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def interrupt(self, pattern: str) -> str:
        """Ctrl-C, as the terminal's driver passes it on; again each second, since readline misses one that comes between two reads.
        So a prompt may be shown more than once; patterns name what stands before it."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            try:
                return self.until(pattern, seconds=1.0)
            except TimeoutError:
                continue
        raise AssertionError(f"no {pattern!r} in {self._seen!r}")


@pytest.fixture
def terminal(server: Server) -> Iterator[Terminal]:
    terminal = Terminal(server.url)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_in_a_terminal(server: Server, terminal: Terminal) -> None:
    assert "tiny" in terminal.until(r"\n> ")
    terminal.press(b"one\n")
    shown = terminal.until(r"\n> ")
    assert "".join(PIECES) in shown
    assert re.search(r"\n12 tokens, [\d.]+ tokens/s, first text after [\d.]+ s; accepted 5 of 8 verified, 3\.00 tokens a step\n", shown)
    terminal.press(b"slow\n")
    terminal.until(r"\.\.\.")
    terminal.interrupt(r"stopped, first text after [^>]*\n> ")
    assert server.gone.wait(10), "the server still answers"
    terminal.press(b"refuse\n")
    terminal.until(r"the context is full[^>]*\n> ")
    terminal.press(b"two\n")
    terminal.until(re.escape("".join(PIECES)) + r"[^>]*\n> ")
    said = [(m["role"], m["content"].rstrip(".")) for m in server.bodies[-1]["messages"]]
    answer = ("assistant", "".join(PIECES))
    assert said == [("user", "one"), answer, ("user", "slow"), answer, ("user", "two")], "a refused prompt is not among them"
    terminal.press(b"/reset\n")
    terminal.until(r"a new conversation\n> ")
    terminal.press(b"half a li")
    terminal.until("half a li")
    terminal.interrupt(r"\n> ")
    terminal.press(CTRL_D)
    assert terminal.process.wait(10) == 0


def steps(*tokens: tuple[str, str]) -> list[dict]:
    return [{"tokens": [{"text": text, "source": source} for text, source in tokens]}]


def test_each_token_has_the_colour_of_its_source() -> None:
    colours = DraftColours()
    colours.learn(steps(("Hel", "model"), ("lo", "model"), (" you", "lookup"), ("!", "target")))
    assert colours.coloured("Hello ") == painted("Hello", COLOURS["model"]) + painted(" ", COLOURS["lookup"])
    colours.learn(steps((" Bye", "suffix")))
    assert colours.coloured("you! Bye") == painted("you", COLOURS["lookup"]) + "!" + painted(" Bye", COLOURS["suffix"])


def test_tokens_of_what_is_not_written_are_passed_over_and_text_without_a_trace_is_plain() -> None:
    colours = DraftColours()
    colours.learn(steps(("<think>", "target"), ("hm", "model"), ("</think>", "model"), ("yes\t\r\n", "forced")))
    assert colours.coloured("yes\t\r\n") == painted("yes\t\r\n", COLOURS["forced"])
    assert colours.coloured("more") == "more"
    colours.learn(steps(("old", "model")))
    colours.begin()
    assert colours.coloured("old") == "old"


def test_the_legend_names_each_source_in_its_colour() -> None:
    assert legend().count("\x1b[0m") == len(COLOURS)
    assert set(COLOURS) == {*SOURCE_KINDS, OWN}
    assert re.sub(r"\x1b\[\d*m", "", legend()) == (
        "drafted by draft model, lookup, suffix, trigram, prediction, forced by a grammar, own stage; target"
    )


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"FORCE_COLOR": "1", "TERM": "xterm"}, True), ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}, False), ({}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    server: Server, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, _ = piped(server, "traced\n", "--show-drafts")
    assert code == 0
    text = "".join(PIECES)
    assert out == (painted(PIECES[0], COLOURS["model"]) + "".join(PIECES[1:]) if coloured else text) + "\n"
    assert server.bodies[0]["stream_options"].get("include_trace", False) == coloured
