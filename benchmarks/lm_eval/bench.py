"""lm-eval twice on the same items: its own `hf` model, and `local-completions` with a server of ours on the same weights.

Promises: both have the same dtype and one tokenizer; nothing is fetched: tasks and their data are files of this folder. The server drafts
as it does by default without a draft model, so speculation stands behind what is compared.
"""

import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.harness.http_stream import BenchError
from benchmarks.harness.paced_server import cluster, sums
from benchmarks.harness.report import Report
from benchmarks.harness.server_process import ServerProcess
from benchmarks.lm_eval.results import DIGITS, Results, compare, read_results, score_rows
from deployments.cli.options import machine
from deployments.cli.ray_environment import free_port
from drafthouse.checkpoints.model_path import model_path

TASKS = ("drafthouse_choice", "drafthouse_answer")
FOLDER = pathlib.Path(__file__).parent / "tasks"
MODEL = "target"
WORDS = 3000
KV_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class LmEvalOptions:
    """As on the command line."""

    program: pathlib.Path
    target: str
    dtype: str
    threads: int
    concurrent: int
    limit: int | None


def run_lm_eval(options: LmEvalOptions, console: Console) -> Report:
    """Raises BenchError with the last words of what failed."""
    state, path = machine(), str(pathlib.Path(model_path(options.target)).resolve())
    program = options.program.absolute()
    if not program.is_file():
        raise BenchError(f"--lm-eval {options.program}: no such file; docs/lm-eval.md says how it is installed")
    with console.status("lm-eval's own model"):
        theirs = _evaluate(options, ["--model", "hf", "--device", "cpu"], {"pretrained": path, "dtype": options.dtype})
    server, port = ServerProcess("drafthouse serve"), free_port()
    with console.status("a server of ours"):
        url = f"http://127.0.0.1:{port}"
        command = ["-c", "from deployments.cli.main import main; main()", "serve", "--config"]
        server.start(yaml.safe_dump(_config(options, port)), command, lambda: httpx.get(f"{url}/health/ready", trust_env=False).is_success)
        try:
            arguments = {"model": MODEL, "base_url": f"{url}/v1/completions", "tokenizer": path, "tokenizer_backend": "huggingface"}
            ours = _evaluate(options, ["--model", "local-completions"], arguments | {"num_concurrent": options.concurrent})
            accepted = sums(cluster(url), "verifier")["accepted"]
        finally:
            server.close()
    settings = asdict(options) | {"program": str(options.program)}
    return {"machine": state, "settings": settings, "accepted": int(accepted)} | report_of(theirs, ours)


def _config(options: LmEvalOptions, port: int) -> dict[str, Any]:
    target = {"path": options.target, "dtype": options.dtype, "threads": options.threads, "kv_tokens": KV_TOKENS}
    ports = {"http_port": port, "grpc_port": free_port(), "dashboard_port": free_port()}
    return {"model": MODEL, "target": target, "draft": None, "server": ports}


def _evaluate(options: LmEvalOptions, how: Sequence[str], model: dict[str, Any]) -> Results:
    """One run of lm_eval in the folder of the tasks. Its environment gets no PYTHONPATH, since its packages are its own."""
    with tempfile.TemporaryDirectory(prefix="drafthouse-lm-eval-") as folder:
        output = pathlib.Path(folder) / "output"
        command = [str(options.program.absolute()), "run", *how, "--model_args", ",".join(f"{key}={value}" for key, value in model.items())]
        command += ["--tasks", ",".join(TASKS), "--include_path", str(FOLDER), "--batch_size", "1"]
        command += ["--output_path", str(output), "--log_samples", *(["--limit", str(options.limit)] if options.limit else [])]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": folder, "OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise BenchError(f"{' '.join(command)} ended with status {done.returncode}:\n{(done.stdout + done.stderr)[-WORDS:].strip()}")
        return read_results(output)


def report_of(theirs: Results, ours: Results) -> Report:
    found = compare(theirs, ours)
    return {
        "scores": [dict(zip(("task", "metric", "hf", "ours"), row, strict=True)) for row in score_rows(found)],
        "equal": found.equal,
        "choices": found.choices,
        "largest_difference": found.worst[0],
        "largest_difference_at": list(found.worst[1]),
        "greedy_flags_different": found.greedy_flags_different,
        "texts": found.texts,
        "texts_different": [list(item) for item in found.texts_different],
    }


def print_lm_eval(console: Console, report: Report) -> None:
    table = Table(title=f"{report['settings']['target']}, {report['settings']['dtype']}", title_justify="left")
    for heading in ("task", "metric", "lm-eval's hf", "ours"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for row in report["scores"]:
        table.add_row(row["task"], row["metric"], f"{row['hf']:.{DIGITS}f}", f"{row['ours']:.{DIGITS}f}")
    console.print(table)
    task, item = report["largest_difference_at"]
    lines = [
        f"{report['choices']} loglikelihoods: the largest difference is {report['largest_difference']:.2e} nats (item {item} of {task});"
        f" {report['greedy_flags_different']} differ in whether greedy decoding writes them",
        f"{report['texts']} texts generated: {len(report['texts_different'])} differ; {report['accepted']} of their tokens were drafted",
    ]
    for line in lines:
        console.print(line, highlight=False)
    if not report["equal"]:
        console.print(f"[bold]scores differ in their first {DIGITS} digits[/]", highlight=False)
