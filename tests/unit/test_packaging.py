"""What is installed for whom: serving alone, the extra `bench`, development."""

import pathlib
import re
import tomllib
from collections.abc import Iterable

import pytest

from deployments.cli.options import BENCH_PACKAGES

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


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
