"""The command line without a cluster: help, versions, and errors that say what to do."""

import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint

import psutil
import pytest
from typer.testing import CliRunner

from deployments.api.trace_form import TraceForm
from deployments.cli import main, pid_file
from deployments.cli.local_cluster import is_final, root_cause
from deployments.cli.main import build_cli
from deployments.cli.ray_environment import free_port
from deployments.cli.serve import config_of
from deployments.placement import needed_cpus
from drafthouse import __version__
from drafthouse.checkpoints.model_path import PACKAGED_DRAFTS, model_path
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from tests.unit.byte_tokenizer import codec
from tests.unit.tracing_double import trace_of

COMMANDS = [
    "serve",
    "stop",
    "generate",
    "chat",
    "replay",
    "batch",
    "status",
    "hash-key",
    "profile",
    "simulate",
    "distill",
    "train-demo",
    "inflate",
    "build-trigram",
    "bench",
]


def _invoke(*arguments: str) -> tuple[int, str]:
    """Exit status and everything printed, line breaks of boxes and wrapping taken out."""
    result = CliRunner().invoke(build_cli(), list(arguments))
    return result.exit_code, " ".join(result.output.split())


def test_help_lists_every_command() -> None:
    code, output = _invoke("--help")
    assert code == 0
    assert all(command in output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    code, output = _invoke(command, "--help")
    assert code == 0
    assert "Usage" in output


def test_version() -> None:
    assert _invoke("--version") == (0, f"drafthouse {__version__}")


def test_starting_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "transformers", "matplotlib", "simpy")
    code = f"import sys, deployments.cli.main as c; c.build_cli(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["bench", "decisions"], ["simulate", "--requests", "1"]])
def test_what_a_serving_install_lacks_is_named_with_its_extra(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    says = f"error: drafthouse {command[0]} needs packages that are not installed (matplotlib): pip install 'drafthouse[bench]'"
    assert _invoke(*command) == (1, says)


def test_an_entry_point_whose_package_is_left_out_costs_its_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = EntryPoint("bench", "no_such_package.commands:app", "drafthouse.commands")
    monkeypatch.setattr(main, "entry_points", lambda group: [left_out])
    code, output = _invoke("--help")
    assert code == 0
    assert "serve" in output
    assert "bench" not in output


def test_serve_refuses_an_unknown_key(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("verifer: {}\n", encoding="utf-8")
    code, output = _invoke("serve", "--config", str(path))
    assert code == 1
    assert "bad.yaml" in output
    assert "verifer" in output


def test_serve_refuses_a_missing_file() -> None:
    code, output = _invoke("serve", "--config", "/nowhere/config.yaml")
    assert code == 1
    assert "/nowhere/config.yaml" in output


def test_serve_refuses_a_missing_model(tmp_path: pathlib.Path) -> None:
    ports = {"http_port": free_port(), "grpc_port": free_port(), "dashboard_port": free_port()}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"target": {"path": "/nowhere/model"}, "server": ports}), encoding="utf-8")
    code, output = _invoke("serve", "--config", str(path))
    assert code == 1
    assert "target.path" in output
    assert "/nowhere/model" in output


def test_serve_takes_a_model_or_a_file() -> None:
    code, output = _invoke("serve", "--model", "smollm2", "--config", "x.yaml")
    assert code == 1
    assert "--model and --config: give one of them" in output
    code, output = _invoke("serve", "--model", "")
    assert code == 1
    assert "--model" in output


def test_serving_a_model_by_its_path() -> None:
    config = config_of("some/where/Mine.Q4_1.gguf", None)
    assert (config.model, config.target.path) == ("Mine.Q4_1.gguf", "some/where/Mine.Q4_1.gguf")
    assert (config.draft, config.drafter.replicas, [stage.kind for stage in config.drafter.stages]) == (None, 0, ["lookup"])
    assert config_of("smollm2", None).model == "smollm2"
    assert config_of("./smollm2", None).draft is None
    assert config_of(".", None).model == pathlib.Path.cwd().name


def test_a_packaged_model_is_served_with_the_draft_that_ships_for_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED_DRAFTS, "smollm2:draft", tmp_path)
    assert config_of("smollm2", None).draft is None
    with pytest.raises(ConfigError, match="smollm2:draft: this version ships no draft for smollm2"):
        model_path("smollm2:draft")
    (tmp_path / "config.json").touch()
    assert model_path("smollm2:draft") == str(tmp_path)
    config = config_of("smollm2", None)
    assert config.draft is not None
    assert (config.target.path, config.draft.path, config.drafter.replicas) == ("smollm2", "smollm2:draft", 1)
    assert [(s.kind, s.placement) for s in config.drafter.stages] == [("model", "drafter"), ("lookup", "verifier")]
    assert needed_cpus(config) <= 2


def test_serve_tells_all_faults_of_the_machine_and_the_folders_together(tmp_path: pathlib.Path) -> None:
    port = free_port()
    sections = {
        "target": {"path": "/nowhere/model"},
        "draft": {"path": str(tmp_path)},
        "server": {"http_port": port, "grpc_port": port, "dashboard_port": free_port()},
        "security": {"api_keys": {"file": "/nowhere/keys"}, "open_data_plane": True},
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(sections), encoding="utf-8")
    result = CliRunner().invoke(build_cli(), ["serve", "--config", str(path)])
    assert result.exit_code == 1
    lines = result.stderr.removeprefix("error: ").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["server.grpc_port", "security.api_keys.file", "target.path", "draft.path"]


@pytest.mark.parametrize("command", ["serve", "profile"])
def test_a_broken_folder_is_refused_before_anything_heavy_is_imported(tmp_path: pathlib.Path, command: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"target": {"path": str(tmp_path)}, "server": {"http_port": free_port()}}), encoding="utf-8")
    code = (
        "import sys; from deployments.cli.main import build_cli\n"
        f"try: build_cli()([{command!r}, '--config', {str(path)!r}], standalone_mode=False)\n"
        "except BaseException: pass\n"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "target.path" in done.stderr
    assert "no config.json here" in done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["generate", "x"], ["chat"], ["status"]])
def test_without_a_server_the_url_is_named(command: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, output = _invoke(*command, "--url", url)
    assert code == 1
    assert f"no server answers at {url}" in output
    assert "Traceback" not in output


def test_train_demo_finish_names_what_is_missing(tmp_path: pathlib.Path) -> None:
    code, output = _invoke("train-demo", "--finish", str(tmp_path), "--output", str(tmp_path / "out"))
    assert code == 1
    assert "target/config.json" in output


STEPS = [step.model_dump() for step in TraceForm(codec().token_bytes).steps([trace_of((5, 6, 7)), trace_of((8, 9), 3, step=1)])]


class _Api(BaseHTTPRequestHandler):
    """Answers as the gateway does: a list of models, then a stream of two pieces."""

    def do_GET(self) -> None:
        self._answer("application/json", json.dumps({"data": [{"id": "demo"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["temperature"] > 2:
            self._answer("application/json", json.dumps({"error": {"message": "temperature is too high"}}), 400)
            return
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "speculation": {"drafted": 4, "verified": 4, "accepted": 1, "steps": 1}}
        events = [{"choices": [{"text": body["model"]}]}, {"choices": [{"text": f" {body['speculation']['mode']}"}]}]
        if body["stream_options"].get("include_trace"):
            for event, step in zip(events, STEPS, strict=True):
                event["choices"][0]["trace"] = [step]
        lines = [f"data: {json.dumps(event)}\n\n" for event in [*events, {"choices": [], "usage": usage}]]
        self._answer("text/event-stream", "".join(lines) + "data: [DONE]\n\n")

    def _answer(self, kind: str, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: test output is for tests."""


@pytest.fixture(scope="module")
def api_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_generate_streams_text_to_stdout_and_usage_to_stderr(api_url: str) -> None:
    result = CliRunner().invoke(build_cli(), ["generate", "x", "--url", api_url, "--speculation", "off"])
    assert result.exit_code == 0
    assert result.stdout == "demo off\n"
    assert "2 generated in 1 steps" in result.stderr


def test_a_trace_goes_to_its_file_and_is_replayed(api_url: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.jsonl"
    result = CliRunner().invoke(build_cli(), ["generate", "x", "--url", api_url, "--trace", str(path)])
    assert (result.exit_code, result.stdout) == (0, "demo auto\n")
    assert [json.loads(line) for line in path.read_text().splitlines()] == STEPS
    shown = CliRunner().invoke(build_cli(), ["replay", str(path)])
    lines, first = shown.stdout.splitlines(), "".join(token["text"] for token in STEPS[0]["tokens"])
    assert shown.exit_code == 0
    assert [line for line in lines if line.startswith(("step", "  text"))] == [
        "step 0 of attempt 1, output token 0: drafted 7, verified 2, accepted 2; waited 500.0 ms, device 250.0 ms, step 375.0 ms, "
        "price 0.125",
        '  text ""',
        "step 1 of attempt 1, output token 3: drafted 5, verified 1, accepted 1; waited 500.0 ms, device 250.0 ms, step 375.0 ms, "
        "price 0.125",
        f"  text {json.dumps(first, ensure_ascii=False)}",
    ]
    a, b, c = (json.dumps(token["text"]) for token in STEPS[0]["tokens"])
    tree = lines[3:8]
    assert [line.split()[0] for line in tree] == ["*", "*", ".", ".", "..."]
    assert tree[0] == f"  * {a} 0.50 lookup"
    assert tree[1] == f"    * {b} 0.25 model"
    assert lines[8] == f"  new  {a} (lookup) {b} (model) {c} (target)"
    assert "  ... and 6 more" in CliRunner().invoke(build_cli(), ["replay", str(path), "--nodes", "1"]).stdout


def test_a_file_that_is_no_trace_is_refused_with_its_line_and_field(tmp_path: pathlib.Path) -> None:
    path, step = tmp_path / "trace.jsonl", STEPS[0]
    for content, words in (
        ("", "it has no steps"),
        ("x", "line 1: step: Invalid JSON"),
        (json.dumps(step) + "\n" + json.dumps(step | {"price": "dear"}), "line 2: price: Input should be a valid number"),
        (json.dumps(step | {"nodes": [step["nodes"][0] | {"parent": 0}]}), "line 1: nodes: a parent must be -1 or a node before its child"),
        (json.dumps(step | {"accepted": [9]}), "line 1: accepted: there is no such node"),
    ):
        path.write_text(content)
        code, output = _invoke("replay", str(path))
        assert code == 1
        assert f"error: {path}" in output
        assert words in output
    code, output = _invoke("replay", str(tmp_path / "none"))
    assert code == 1
    assert "none: cannot be read: " in output


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_asked() -> None:
    code, output = _invoke("generate", "x", "--url", "http://127.0.0.1:1", "--trace", "/nowhere/trace.jsonl")
    assert code == 1
    assert "--trace /nowhere/trace.jsonl: cannot be written" in output


def test_a_trace_that_cannot_be_written_any_further_names_its_option(api_url: str, tmp_path: pathlib.Path) -> None:
    for path, words in (("/dev/full", "No space left on device"), (str(tmp_path), "Is a directory")):
        code, output = _invoke("generate", "x", "--url", api_url, "--trace", path)
        assert code == 1
        assert f"error: --trace {path}: cannot be written: {words}" in output


def test_generate_shows_the_servers_error(api_url: str) -> None:
    code, output = _invoke("generate", "x", "--url", api_url, "--temperature", "3")
    assert code == 1
    assert "temperature is too high" in output


def test_root_cause_is_the_last_exception_of_a_traceback() -> None:
    frames = 'Error:\nTraceback (most recent call last):\n  File "a.py", line 1\nRuntimeError: Traceback:\n  x\n'
    message = frames + "a.b.ModelError: bad rope\nin layer 3\n"
    assert root_cause(message) == "a.b.ModelError: bad rope\nin layer 3"
    assert root_cause(" no exception ") == "no exception"


@pytest.mark.parametrize(
    ("error", "final"),
    [
        ("drafthouse.errors.ModelError: /models/x: bad rope", True),
        ("drafthouse.errors.ConfigError: x", True),
        ("OSError: the port is taken", False),
        ("no error at all", False),
    ],
)
def test_a_fault_of_the_model_is_not_tried_again(error: str, final: bool) -> None:
    assert is_final(root_cause(f"Traceback:\n  File\n{error}\n")) == final


def test_needed_cpus_counts_every_replica() -> None:
    config = ServingConfig.model_validate({"verifier": {"replicas": 2, "num_cpus": 1.5}, "drafter": {"replicas": 0}})
    assert needed_cpus(config) == pytest.approx(2 * 1.5 + 0.1 + 0.1)


def test_pid_files_of_dead_processes_are_removed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    pid_file.write(1234)
    dead = pid_file.path(4321)
    dead.write_text(json.dumps({"pid": 2**22 - 1, "started": 1.0, "http_port": 4321}), encoding="utf-8")
    assert [server.http_port for server in pid_file.running()] == [1234]
    assert pid_file.path(1234).exists()
    assert not dead.exists()


def test_a_second_server_of_a_port_is_refused_and_takes_nothing_from_the_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    server = {"pid": first.pid, "started": psutil.Process(first.pid).create_time(), "http_port": 1234}
    pid_file.path(1234).write_text(json.dumps(server), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"server\.http_port: process {first.pid} serves on port 1234"):
        pid_file.write(1234)
    pid_file.remove(1234)
    assert [one.pid for one in pid_file.running()] == [first.pid]
    first.communicate(b"\n")
    pid_file.write(1234)
    pid_file.remove(1234)
    assert not pid_file.path(1234).exists()


def test_stop_ends_nothing_when_it_cannot_tell_which(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert _invoke("stop") == (0, "no server runs")
    for port in (1234, 4321):
        pid_file.write(port)
    code, output = _invoke("stop")
    assert code == 1
    assert "1234, 4321" in output
    assert _invoke("stop", "--port", "99") == (0, "no server runs on port 99")


def test_stop_leaves_the_server_of_another_checkout_alone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        server = {"pid": other.pid, "started": psutil.Process(other.pid).create_time(), "http_port": 1234, "checkout": "/elsewhere"}
        pid_file.path(1234).write_text(json.dumps(server), encoding="utf-8")
        code, output = _invoke("stop")
        assert code == 1
        assert f"--port 1234 (pid {other.pid}, started from /elsewhere)" in output.replace("\n", " ")
        assert other.poll() is None
        assert _invoke("stop", "--port", "1234")[0] == 0
        assert not psutil.pid_exists(other.pid)
