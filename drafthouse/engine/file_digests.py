"""Digests of large files, read whole once and remembered.

Promises: every byte counts. A digest is remembered in a small file of its own, under the file's path, size, inode and
both its times; any change of these has it read again. A cache that cannot be read or written costs time only.
"""

import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, ValidationError

from drafthouse.config.cache_files import cache_folder, write_whole

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 << 20
"""A file is hashed in pieces of this size by several threads, and its digest is that of theirs. Changing it changes all digests."""

READ_BYTES = 1 << 20

THREADS = 4
"""Hashing lets the interpreter lock go. More threads than this are limited by the disk."""

TELL_S = 5.0
"""Between two lines on how far a long reading has come."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str
    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    digest: str = ""


def digests_of(files: Sequence[pathlib.Path], tell: Callable[[str], None] = lambda line: None) -> list[str]:
    """One of each file; `tell` gets a line now and then, if reading takes long. Raises OSError where one cannot be read."""
    entries = [_identity(file) for file in files]
    known = [_remembered(entry) for entry in entries]
    fresh = iter(_read([file for file, digest in zip(files, known, strict=True) if digest is None], tell))
    digests = []
    for entry, digest in zip(entries, known, strict=True):
        if digest is None:
            digest = next(fresh)
            _remember(entry.model_copy(update={"digest": digest}))  # as it was before reading: if it changed meanwhile, that is seen
        digests.append(digest)
    return digests


def _identity(file: pathlib.Path) -> _Entry:
    """The change time is there because tools that copy or unpack may set the modification time to any they like."""
    path, stat = file.resolve(), file.stat()
    return _Entry(path=str(path), size=stat.st_size, inode=stat.st_ino, mtime_ns=stat.st_mtime_ns, ctime_ns=stat.st_ctime_ns)


def _place(entry: _Entry) -> pathlib.Path:
    name = hashlib.sha256(entry.path.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return cache_folder("digests") / f"{name}.json"


def _remembered(entry: _Entry) -> str | None:
    try:
        found = _Entry.model_validate_json(_place(entry).read_bytes())
    except (OSError, ValidationError):
        return None
    return found.digest if found.model_copy(update={"digest": ""}) == entry and found.digest else None


def _remember(entry: _Entry) -> None:
    place = _place(entry)
    try:
        write_whole(place, entry.model_dump_json(indent=1) + "\n")
    except (OSError, UnicodeError) as error:
        logger.warning("%s: the digest of %s is not kept, so it is computed again next time: %s", place, entry.path, error)


def _read(files: Sequence[pathlib.Path], tell: Callable[[str], None]) -> list[str]:
    sizes = [file.stat().st_size for file in files]
    pieces = [(file, at) for file, size in zip(files, sizes, strict=True) for at in range(0, max(size, 1), PIECE_BYTES)]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        read = iter(_telling(pool.map(_piece, pieces), len(pieces), sum(sizes), tell))
        return [hashlib.sha256(b"".join(next(read) for _ in range(0, max(size, 1), PIECE_BYTES))).hexdigest() for size in sizes]


def _piece(place: tuple[pathlib.Path, int]) -> bytes:
    file, at = place
    digest, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with file.open("rb", buffering=0) as stream:
        stream.seek(at)
        left = PIECE_BYTES
        while left and (count := stream.readinto(buffer[:left])):
            digest.update(buffer[:count])
            left -= count
    return digest.digest()


def _telling(digests: Iterable[bytes], pieces: int, size: int, tell: Callable[[str], None]) -> Iterable[bytes]:
    """Passes them on, with a line now and then."""
    told = time.monotonic()
    for done, digest in enumerate(digests, 1):
        yield digest
        if time.monotonic() - told >= TELL_S and done < pieces:
            told = time.monotonic()
            tell(f"hashing the model's files: {100 * done // pieces} % of {size / 1e9:.1f} GB")
