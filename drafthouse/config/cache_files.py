"""Files that outlive a process and can be made again: where they lie, and how they are written.

Promises: a file is there whole or not at all, so replicas that start together may all write it.
"""

import os
import pathlib
import tempfile


def cache_folder(name: str) -> pathlib.Path:
    """The folder `name` in $DRAFTHOUSE_CACHE, by default in ~/.cache/drafthouse. It need not exist."""
    root = os.environ.get("DRAFTHOUSE_CACHE") or "~/.cache/drafthouse"
    return pathlib.Path(os.path.expanduser(root)) / name


def write_whole(path: pathlib.Path, text: str) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
