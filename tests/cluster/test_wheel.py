"""The wheel: all of the project and nothing else is in it, and it serves where the checkout cannot be seen.

The environment has the project from the wheel alone. Dependencies are those of the running tests, so that nothing is
downloaded, but for what requirements-bench.txt adds, which is hidden: this is an installation for serving.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from importlib.metadata import packages_distributions

import pytest

from deployments.cli.options import BENCH_PACKAGES
from tests.cluster.serving import Serving

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
NOTES = {"drafthouse/engine/curves/README.md"}


@dataclass(frozen=True)
class Installation:
    """A virtual environment and a folder outside the checkout from which its programs run."""

    folder: pathlib.Path
    cwd: pathlib.Path

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, capture_output=True, text=True, cwd=self.cwd, env=self.environment, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Built from a copy of the sources, since building writes among them."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(source)], check=True, timeout=300)
    (file,) = made.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installation(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    made = Installation(folder, tmp_path_factory.mktemp("elsewhere"))
    python = made.program("python")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file brings that folder's packages, and not the link to the checkout that lies in it as a .pth file.
    hide = f"import sys; sys.modules.update(dict.fromkeys({bench_modules()}))"
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{hide}\n", encoding="utf-8")
    return made


def bench_modules() -> list[str]:
    """Top-level modules of what requirements-bench.txt adds to requirements.txt."""
    lines = (ROOT / "requirements-bench.txt").read_text(encoding="utf-8").splitlines()
    added = {line.partition("==")[0].lower() for line in lines if "==" in line}
    modules = [module for module, names in packages_distributions().items() if added & {name.lower() for name in names}]
    assert set(BENCH_PACKAGES) <= set(modules)
    return modules


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel: pathlib.Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert {name.partition("/")[0] for name in packed} == set(PACKAGES)
    sources = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    assert packed == {path.as_posix() for path in sources if "__pycache__" not in path.parts} - NOTES


def test_programs_come_from_the_wheel_and_name_the_extra(installation: Installation) -> None:
    shown = installation.run(installation.program("drafthouse"), "--help")
    assert shown.returncode == 0, shown.stderr
    assert "serve" in shown.stdout
    where = "import deployments, drafthouse, importlib.util as u; print(drafthouse.__file__, deployments.__file__, u.find_spec('tests'))"
    places = installation.run(installation.program("python"), "-c", where)
    assert places.stdout.count(str(installation.folder)) == 2, places.stdout + places.stderr
    assert places.stdout.endswith("None\n"), "the checkout is not importable"
    refused = installation.run(installation.program("drafthouse"), "simulate")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f"({', '.join(BENCH_PACKAGES)}): pip install 'drafthouse[bench]'\n")


@pytest.mark.cluster_long
def test_the_wheel_serves(installation: Installation) -> None:
    environment = {**installation.environment, "RAY_AUTH_MODE": "disabled"}
    server = Serving(installation.cwd, environment, [installation.program("drafthouse")], installation.cwd)
    try:
        server.wait_ready()
        speculation = {"mode": "fixed", "nodes": 8, "depth": 4}
        usage = server.complete(prompt="def add(a, b):\n", max_tokens=48, temperature=0, speculation=speculation)["usage"]
        assert usage["completion_tokens"] == 48
        assert usage["speculation"]["accepted"] > 0
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.stop()
