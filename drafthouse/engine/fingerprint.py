"""What must agree for two replicas to give the same text, so that one may go on with what another began.

Promises: every byte of the files that a model is loaded from counts. Below float64, where rounding may decide a
near-tie, so does all that decides the order of sums: device, instruction set, threads, versions of the libraries.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable

import torch
import transformers

from drafthouse import __version__
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.file_digests import digests_of
from drafthouse.noise import NOISE_VERSION

SUFFIXES = {".bin", ".gguf", ".jinja", ".json", ".model", ".py", ".safetensors", ".tiktoken", ".txt"}
"""Of files that weights, tokenizer, settings or code are loaded from."""

CPU_SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables that choose other kernels."""

NOT_OF_KERNELS = {"num_logical_cores", "num_physical_cores", "num_sockets"}


def fingerprint(
    path: str,
    config: ModelConfig,
    device: torch.device,
    forward_kernels: str,
    tell: Callable[[str], None] = lambda line: None,
    embeddings: str = "",
) -> str:
    """Of the folder or hub id `path`, loaded with `config` onto `device`; `forward_kernels` as of `drafthouse.engine.forward.Forward`.
    `embeddings`: digest of those that come from another folder.

    `tell` gets a line now and then, if hashing takes long. Raises OSError where a file cannot be read.
    """
    parts = [f"checkpoint {checkpoint_digest(path, tell)}", f"{config.dtype} parallel {config.parallel} noise {NOISE_VERSION}"]
    parts += [f"embeddings {embeddings}"] if embeddings else []
    if config.dtype != "float64":
        parts += [forward_kernels, kernels(config, device)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def checkpoint_digest(path: str, tell: Callable[[str], None] = lambda line: None) -> str:
    """Of all files in a folder that count, by name; of a hub id the commit that this machine has."""
    folder = pathlib.Path(path)
    if not folder.is_dir():
        config = transformers.AutoConfig.from_pretrained(path)
        return hashlib.sha256(f"{path} {config._commit_hash}".encode()).hexdigest()
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    lines = [f"{digest} {file.name}" for file, digest in zip(files, digests_of(files, tell), strict=True)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def kernels(config: ModelConfig, device: torch.device) -> str:
    """All that the bits of a sum depend on, as text."""
    versions = f"drafthouse {__version__} torch {torch.__version__} transformers {transformers.__version__}"
    if device.type == "cuda":
        return f"{versions} {torch.cuda.get_device_name(device)} cuda {torch.version.cuda}"
    features = {name: value for name, value in torch.cpu.get_capabilities().items() if name not in NOT_OF_KERNELS}
    settings = {name: os.environ[name] for name in CPU_SETTINGS if name in os.environ}
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{versions} threads {config.threads} cpu {capability} {sorted(features.items())} {sorted(settings.items())}"
