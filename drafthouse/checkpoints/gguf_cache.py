"""Converted GGUF files, kept in the cache folder: each is converted once on a machine.

Promises: a folder in the cache is whole; a conversion that is killed leaves one that the next begins again; of processes that
want the same file at once one converts and the others wait. The name of a folder tells the file's content and what converted it.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import sys
import time

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from drafthouse.checkpoints.gguf_record import dequantised
from drafthouse.config.cache_files import cache_folder
from drafthouse.errors import ConfigError

FORMAT = 1
"""Version of what a conversion writes."""

EDGE_BYTES = 1 << 20
"""Of a file, this much is hashed at its start, where all metadata are, and at its end."""


def converted(file: pathlib.Path, name: str) -> pathlib.Path:
    """The folder with the model of this GGUF file. Raises ConfigError or ModelError beginning with `name`, its path in the configuration.

    Says on standard error what it does; on a terminal with a progress bar.
    """
    folder = cache_folder("gguf") / f"{file.stem}-{_digest(file)}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _convert(file, folder, name)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot write the converted model to {folder.parent}: {error.strerror or error}; "
            "DRAFTHOUSE_CACHE names another folder for caches"
        ) from error
    return folder


def _convert(file: pathlib.Path, folder: pathlib.Path, name: str) -> None:
    from drafthouse.checkpoints.gguf_conversion import convert  # with torch and transformers, for which a cached model need not wait

    console = Console(file=sys.__stderr__, highlight=False, soft_wrap=True)
    started = time.perf_counter()
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was killed
    partial.mkdir()
    try:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        ) as bar:  # fmt: skip
            task = bar.add_task(f"{name}: reading", total=1.0)
            convert(file, partial, name, lambda part, share: bar.update(task, description=f"{name}: {part}", completed=share))
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    console.print(
        f"{name}: {file.name} {dequantised(folder)}, kept in {folder} ({time.perf_counter() - started:.0f} s, once)", markup=False
    )


def _digest(file: pathlib.Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for package in ("transformers", "gguf"):
        digest.update(f" {package} {importlib.metadata.version(package)}".encode())
    with file.open("rb") as data:
        digest.update(data.read(EDGE_BYTES))
        data.seek(-min(EDGE_BYTES, size), os.SEEK_END)
        digest.update(data.read(EDGE_BYTES))
    return digest.hexdigest()[:16]
