"""The compiled decoder: built once for each machine's vectors by the C++ compiler that is there, then loaded.

Promises: a library is built under another name and moved into place, so that what is loaded is whole. Its name holds what it was
made of: the sources, the compiler's options and the instruction set.
"""

import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from filelock import FileLock

from drafthouse.config.cache_files import cache_folder

logger = logging.getLogger(__name__)

SOURCE = pathlib.Path(__file__).parent / "decoder.cpp"
BUILT = SOURCE.parent / "built"
"""What an image brings along; anywhere else the library is built into the user's cache."""
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-pthread", "-Wno-psabi")
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    ("x86-64-v4+avx512vnni", {*_V4, "avx512_vnni"}),
    ("x86-64-v4", _V4),
    ("x86-64-v3", {"avx2", "fma", "bmi2", "f16c"}),
)
"""Instruction sets, the widest first, and what the processor must say that it has: a level of x86-64, and what the compiler is to take
besides. Elsewhere the compiler's own default."""


class NoLibrary(Exception):
    """The native decoder cannot be had here; the message says why."""


def instruction_set() -> str:
    """The widest level that this processor has; on other machines their name, and what every one of them has."""
    if platform.machine() != "x86_64":
        return platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "x86-64"
    flags = set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
    return next((level for level, needed in LEVELS if needed <= flags), "x86-64")


@functools.cache
def load_library() -> ctypes.CDLL:
    """Builds the library if it is not there. Raises NoLibrary without a compiler, and where no file can be written or loaded."""
    level = instruction_set()
    name = f"decoder-{level}-{_key(level)}.so"
    file = BUILT / name
    if not file.exists():
        file = cache_folder("native") / name
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):  # of replicas that start together one compiles
                if not file.exists():
                    build(file, level)
        return opened(file)
    except OSError as error:
        raise NoLibrary(f"{file}: cannot build or load the native decoder: {error}") from error


def opened(file: pathlib.Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(file))
    library.drafthouse_decoder_new.restype = ctypes.c_void_p
    library.drafthouse_decoder_new.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.drafthouse_decoder_free.argtypes = [ctypes.c_void_p]
    library.drafthouse_decoder_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    library.drafthouse_multiply.argtypes = [pointer, number, number, number, pointer, number, pointer]
    return library


@functools.cache
def library_digest() -> str:
    """Of the library that is loaded: two compilers may order the same sums differently."""
    return hashlib.sha256(pathlib.Path(load_library()._name).read_bytes()).hexdigest()[:16]


def build(file: pathlib.Path, level: str) -> None:
    """Raises NoLibrary with the compiler's words."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NoLibrary("no C++ compiler is installed (g++), and the native decoder has not been built here before")
    logger.info("building the native decoder for %s", level)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = pathlib.Path(folder) / file.name
        march, *more = level.split("+")
        machine = [f"-march={march}", *(f"-m{name}" for name in more)] if march.startswith("x86-64") else []
        command = [compiler, *FLAGS, *machine, str(SOURCE), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoLibrary(f"{compiler} cannot build the native decoder: {done.stderr.strip()[-500:]}")
        made.replace(file)


def build_into_package(levels: Sequence[str]) -> None:
    """What is there already stays; without a compiler it says so, since models run through transformers' modules then."""
    try:
        for level in levels:
            if not (file := BUILT / f"decoder-{level}-{_key(level)}.so").exists():
                build(file, level)
    except NoLibrary as error:
        print(f"native decoder: {error}", file=sys.stderr)


def _key(level: str) -> str:
    sources = b"".join(file.read_bytes() for file in (SOURCE, *sorted(SOURCE.parent.glob("*.h"))))
    return hashlib.sha256(sources + " ".join((*FLAGS, level)).encode()).hexdigest()[:16]


if __name__ == "__main__":
    # `--all`: for every x86-64 level. An image is built on one machine and runs on others.
    every = (*(level for level, _ in LEVELS), "x86-64") if platform.machine() == "x86_64" else (instruction_set(),)
    build_into_package(every if sys.argv[1:] == ["--all"] else [instruction_set()])
