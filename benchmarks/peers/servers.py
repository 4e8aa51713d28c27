"""The servers that stand side by side: ours and other engines', on the same weights, each as its users start it.

Promises: a peer is started by its own documented command on a free port, with the same number of threads, and answers OpenAI's
`/v1/completions`; its requests are greedy and go on past the model's end of text, so that all make equally many tokens. docs/peers.md
says how to install the peers.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import httpx
import psutil
import yaml
from pydantic import ValidationError

from benchmarks.harness.http_stream import BenchError
from benchmarks.harness.server_process import ServerProcess
from deployments.cli.ray_environment import free_port
from drafthouse.checkpoints.model_path import PACKAGED, model_path, packaged_file
from drafthouse.config.cache_files import cache_folder
from drafthouse.config.faults import describe
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

OURS, LLAMA, LLAMA_NGRAM, VLLM, TRANSFORMERS = "ours", "llama.cpp", "llama.cpp with n-grams", "vLLM", "transformers"
"""Servers."""

MODEL = "target"
"""The name that requests give it."""

START_TIMEOUT_S = 600.0
"""vLLM compiles at its first start."""

TREE_TOKENS = 256
"""KV slots for the drafts of one request."""

LLAMA_TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}
"""What llama.cpp calls the precisions."""

DTYPES = tuple(LLAMA_TYPES)

TORCH_DTYPES = ("float32", "bfloat16")
"""What transformers and vLLM make of a folder of float32 weights."""


@dataclass(frozen=True)
class Setup:
    """What all servers have in common. `context_tokens`: of each of the `clients` that ask at the same time; `draft`: the model that
    drafts for ours, if any."""

    target: str
    dtype: str
    threads: int
    clients: int
    context_tokens: int
    draft: str = ""


@dataclass(frozen=True)
class Installed:
    """`llama` is the folder with llama-server, `vllm` and `transformers` are interpreters of environments that have them, `ngram` is
    what turns on llama-server's speculation without a draft model. All may be empty."""

    llama: str
    vllm: str
    transformers: str
    ngram: str


Fields = Mapping[str, Any]


def ignore_eos(tokens: int) -> Fields:
    """What keeps a request from ending before it has `tokens`, as most servers have it."""
    return {"ignore_eos": True, "stream_options": {"include_usage": True}}


def at_least(tokens: int) -> Fields:
    """The same in transformers' own words, which always tells the usage."""
    return {"generation_config": json.dumps({"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens})}


@dataclass(frozen=True)
class Launch:
    """A server's command, and what its requests hold."""

    name: str
    command: tuple[str, ...]
    port: int
    model: str
    environment: Mapping[str, str] = field(default_factory=dict)
    to_the_end: Callable[[int], Fields] = ignore_eos
    health: str = "/health"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Of a streamed, greedy completion of exactly `tokens`."""
        common = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "stream": True}
        return {**common, **self.to_the_end(tokens)}


def launches(setup: Setup, installed: Installed, lookup: bool, folder: pathlib.Path) -> dict[str, Callable[[], Launch]]:
    """By server; `lookup`: those that speculate without a draft model. Each raises BenchError where that server cannot be."""
    both: dict[str, Callable[[], Launch]] = {OURS: lambda: ours(setup, folder), LLAMA: lambda: llama_cpp(setup, installed.llama, LLAMA)}
    if lookup:
        return {**both, LLAMA_NGRAM: lambda: llama_cpp(setup, installed.llama, LLAMA_NGRAM, shlex.split(installed.ngram))}
    return {**both, VLLM: lambda: vllm(setup, installed.vllm), TRANSFORMERS: lambda: transformers(setup, installed.transformers)}


def ours(setup: Setup, folder: pathlib.Path) -> Launch:
    """`drafthouse serve`, its config written to `folder`. A draft model has a thread, and its tree is merged with prompt lookup's.

    Raises ConfigError for what it does not take."""
    common = {"dtype": setup.dtype, "kv_tokens": setup.clients * (setup.context_tokens + TREE_TOKENS)}
    target = {"path": setup.target, "threads": setup.threads, **common}
    draft = {"path": setup.draft, "threads": 1, **common} if setup.draft else None
    ports = {"http_port": free_port(), "grpc_port": free_port(), "dashboard_port": free_port()}
    config = {"model": MODEL, "target": target, "draft": draft, "server": ports}
    try:
        ServingConfig.model_validate(config)
    except ValidationError as error:
        raise ConfigError(f"--dtype {setup.dtype}, --threads {setup.threads}: {'; '.join(describe(error))}") from error
    file = folder / f"{setup.dtype}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = (sys.executable, "-c", "from deployments.cli.main import main; main()", "serve", "--config", str(file))
    return Launch(OURS, command, ports["http_port"], MODEL, health="/health/ready")


def transformers(setup: Setup, python: str) -> Launch:
    """`transformers serve`. Raises BenchError where it cannot be."""
    _check_dtype(setup)
    if not python and find_spec("openai") is None:
        raise BenchError("transformers serve needs packages that are not installed: pip install 'transformers[serving]'")
    port, folder = free_port(), model_path(setup.target)
    program = "from transformers.cli.transformers import main; main()"
    options = ("--device", "cpu", "--dtype", setup.dtype, "--host", "127.0.0.1", "--port", str(port))
    command = (python or sys.executable, "-c", program, "serve", folder, *options)
    return Launch(TRANSFORMERS, command, port, folder, to_the_end=at_least)


def vllm(setup: Setup, python: str) -> Launch:
    """`vllm serve`. Raises BenchError where it cannot be."""
    _check_given("--vllm", python)
    _check_dtype(setup)
    port = free_port()
    command = (
        python, "-m", "vllm.entrypoints.cli.main", "serve", model_path(setup.target), "--dtype", setup.dtype, "--host", "127.0.0.1",
        "--port", str(port), "--served-model-name", MODEL, "--max-model-len", str(setup.context_tokens),
        "--max-num-seqs", str(setup.clients),
    )  # fmt: skip
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": f"0-{setup.threads - 1}", "VLLM_NO_USAGE_STATS": "1",
        "PATH": f"{os.path.dirname(python)}{os.pathsep}{os.environ.get('PATH', '')}",
    }  # fmt: skip
    return Launch(VLLM, command, port, MODEL, environment)


def llama_cpp(setup: Setup, programs: str, name: str, more: Sequence[str] = ()) -> Launch:
    """`llama-server`. Its own cache of earlier prompts is off, since no prompt comes twice. Raises BenchError where it cannot be."""
    _check_given("--llama", programs)
    port, folder = free_port(), pathlib.Path(programs)
    command = (
        str(folder / "llama-server"), "-m", str(quantised(setup, folder)), "-t", str(setup.threads), "--host", "127.0.0.1",
        "--port", str(port), "-np", str(setup.clients), "-c", str(setup.clients * setup.context_tokens), "--cache-ram", "0", *more,
    )  # fmt: skip
    return Launch(name, command, port, MODEL)


def quantised(setup: Setup, folder: pathlib.Path) -> pathlib.Path:
    """The target's GGUF file in the precision of `setup`, made by llama-quantize and kept in the cache. Raises BenchError."""
    if setup.dtype not in LLAMA_TYPES:
        raise BenchError(f"llama.cpp has no {setup.dtype}")
    source = packaged_file(setup.target) if setup.target in PACKAGED else pathlib.Path(setup.target).expanduser()
    if source.suffix != ".gguf":
        raise BenchError(f"llama.cpp reads GGUF files, and {setup.target} is none")
    kind, size = LLAMA_TYPES[setup.dtype], source.stat().st_size
    file = cache_folder("peers") / f"{source.stem}-{size}-{kind}.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        command = [str(folder / "llama-quantize"), "--allow-requantize", str(source), str(partial), kind]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise BenchError(f"llama-quantize cannot be run: {error}") from error
        if done.returncode:
            raise BenchError(f"llama-quantize ended with status {done.returncode}: {(done.stdout + done.stderr)[-500:].strip()}")
        partial.rename(file)
    return file


def _check_given(option: str, value: str) -> None:
    if not value:
        raise BenchError(f"{option} is not given; docs/peers.md says how to install it")


def _check_dtype(setup: Setup) -> None:
    if setup.dtype not in TORCH_DTYPES:
        raise BenchError(f"it has no {setup.dtype} for this model on a CPU")
    try:
        model_path(setup.target)
    except ConfigError as error:
        raise BenchError(str(error)) from error


class PeerServer:
    """A launch that runs from `start` to `close`."""

    def __init__(self, launch: Launch):
        self.launch = launch
        self._process = ServerProcess(launch.name)

    def start(self, threads: int) -> None:
        """Returns when it says that it is well. Raises BenchError with its last words."""
        inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
        own = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **self.launch.environment}
        self._process.start_program(self.launch.command, inherited | own, self._is_well, START_TIMEOUT_S)

    def _is_well(self) -> bool:
        return httpx.get(f"{self.launch.url}{self.launch.health}", timeout=5.0, trust_env=False).status_code == 200

    def close(self) -> None:
        self._process.close()

    def cpu_seconds(self) -> float:
        """Used so far by all its processes."""
        total = 0.0
        for process in self._process.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total


def busy_cores(servers: Mapping[str, PeerServer], seconds: float) -> dict[str, float]:
    """Cores that each keeps busy over the next `seconds`, in which nothing is asked of them: one that spins would slow the others."""
    before = {name: server.cpu_seconds() for name, server in servers.items()}
    time.sleep(seconds)
    return {name: max(0.0, server.cpu_seconds() - before[name]) / seconds for name, server in servers.items()}
