"""The demo pair's training text: Python sources that any installation of Drafthouse has on disk.

Promises: the split into training and held-out files depends only on each file's relative path, so
that every machine with the same Python and the same pinned packages gets the same corpus; no
training file shares more than half of its line triples with a held-out file or with a training file
taken before it.
"""

import hashlib
import importlib.metadata
import pathlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass

HELD_OUT_ONE_IN = 20
"""One file in twenty (5 %) is held out, chosen by the hash of its path."""

MIN_CHARACTERS, MAX_CHARACTERS = 200, 200_000
"""Shorter files carry nothing to learn; longer ones are generated tables."""

SHINGLE_LINES = 3
DUPLICATE_SHARE = 0.5

PACKAGES = {
    "torch": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    "ray": "Apache-2.0",
    "numpy": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "accelerate": "Apache-2.0",
    "fastapi": "MIT",
    "starlette": "BSD-3-Clause",
    "pydantic": "MIT",
    "rich": "MIT",
    "typer": "MIT",
    "jinja2": "BSD-3-Clause",
    "huggingface_hub": "Apache-2.0",
    "grpcio": "Apache-2.0",
}
"""Pinned dependencies whose Python sources may be used, with their licences."""

_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "_vendor", "testing", "thirdparty_files"}


@dataclass(frozen=True)
class SourceFile:
    """One Python file: `name` is `package/relative/path.py`, the key that decides its split."""

    name: str
    text: str

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Corpus:
    train: list[SourceFile]
    held_out: list[SourceFile]
    dropped_as_duplicates: int


def _python_files(root: pathlib.Path, prefix: str) -> Iterator[SourceFile]:
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts) or relative.name.startswith("test_"):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS and text.isascii():
            yield SourceFile(f"{prefix}/{relative.as_posix()}", text)


def _package_root(package: str) -> pathlib.Path | None:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    module = {"grpcio": "grpc"}.get(package, package)
    root = pathlib.Path(str(distribution.locate_file(module)))
    return root if root.is_dir() else None


def _shingles(text: str) -> set[int]:
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if len(line) > 3]
    return {hash(tuple(lines[i : i + SHINGLE_LINES])) for i in range(max(1, len(lines) - SHINGLE_LINES + 1))}


def load_corpus() -> Corpus:
    """Reads, splits and de-duplicates the sources on this machine; the standard library comes first."""
    files = list(_python_files(pathlib.Path(sysconfig.get_path("stdlib")), "python"))
    for package in PACKAGES:
        if (root := _package_root(package)) is not None:
            files += _python_files(root, package)
    held_out = [file for file in files if file.held_out]
    seen: set[int] = set()
    for file in held_out:
        seen |= _shingles(file.text)
    train, dropped = [], 0
    for file in files:
        if file.held_out:
            continue
        shingles = _shingles(file.text)
        if len(shingles & seen) > DUPLICATE_SHARE * len(shingles):
            dropped += 1
            continue
        seen |= shingles
        train.append(file)
    random.Random(0).shuffle(train)
    return Corpus(train, held_out, dropped)
