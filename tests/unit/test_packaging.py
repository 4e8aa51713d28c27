"""What is installed for whom: serving alone, the extra `bench`, development."""

import pathlib
import re
import tomllib
from collections.abc import Iterable

import pytest

from deployments.cli.options import BENCH_PACKAGES
from drafthouse.checkpoints.model_path import DEMO_MODELS, PACKAGED, PACKAGED_DRAFTS

ROOT = pathlib.Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]

MAX_DRAFT_BYTES = 24_000_000
DRAFT_FILES = {"config.json", "draft.json", "model.safetensors", "REPORT.md", "trigram.npz"}


def names(requirements: Iterable[str]) -> set[str]:
    """Distributions without versions and extras, spelled one way."""
    return {re.split(r"[\[=<>~! ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


def pinned(file: str) -> set[str]:
    """What a requirements file pins, and the files that it includes."""
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    included = [pinned(line.removeprefix("-r ")) for line in lines if line.startswith("-r ")]
    own = [line for line in lines if not line.startswith("-r ")]
    assert all("==" in line for line in own)
    return names(own).union(*included)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements-bench.txt", [*PROJECT["dependencies"], *EXTRAS["bench"]]),
        ("requirements-smollm2.txt", EXTRAS["smollm2"]),
        ("requirements-dev.txt", [*PROJECT["dependencies"], *EXTRAS["bench"], *EXTRAS["dev"]]),
    ],
)
def test_what_the_project_names_is_pinned(file: str, wanted: list[str]) -> None:
    assert names(wanted) - {"drafthouse"} <= pinned(file)


def test_serving_installs_nothing_of_the_extra_and_its_message_names_all_of_it() -> None:
    assert names(EXTRAS["bench"]) == set(BENCH_PACKAGES)
    assert not pinned("requirements.txt") & set(BENCH_PACKAGES)


def draft_faults(folder: pathlib.Path) -> list[str]:
    """What keeps a draft's folder from being shipped."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    missing = DRAFT_FILES - {file.name for file in files if file.parent == folder}
    below = [str(file.relative_to(folder)) for file in files if file.parent != folder]
    size = sum(file.stat().st_size for file in files)
    faults = [f"{name} is missing" for name in sorted(missing)] + [f"{name} lies in a folder of its own" for name in sorted(below)]
    return faults + ([f"{size:,} bytes, more than {MAX_DRAFT_BYTES:,}"] if size > MAX_DRAFT_BYTES else [])


def test_the_check_of_drafts_finds_what_is_missing_and_what_is_large(tmp_path: pathlib.Path) -> None:
    for name in DRAFT_FILES - {"REPORT.md"}:
        (tmp_path / name).touch()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(MAX_DRAFT_BYTES + 1)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "shard-00000.safetensors").touch()
    missing, below, large = draft_faults(tmp_path)
    assert missing == "REPORT.md is missing"
    assert below == "text/shard-00000.safetensors lies in a folder of its own"
    assert large == "24,000,001 bytes, more than 24,000,000"


@pytest.mark.parametrize("path", PACKAGED_DRAFTS)
def test_drafts_of_packaged_models_ship_whole_and_small(path: str) -> None:
    folder = PACKAGED_DRAFTS[path]
    assert path.removesuffix(":draft") in PACKAGED
    assert folder.parent == DEMO_MODELS
    assert f"{folder.name}/*" in PYPROJECT["tool"]["setuptools"]["package-data"]["drafthouse.demo_models"]
    assert not folder.exists() or draft_faults(folder) == []
