"""A value parsed from files that others replace while the process runs: keys, certificates.

Promises: a fault at first is an error; later, the last good value stays, each faulty state is logged once, and is tried
again every RETRY_S, since a fault may lie in the moment: a certificate not valid yet, a read that failed.
"""

import logging
import os
import pathlib
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from drafthouse.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 5.0


class WatchedFiles(Generic[T]):
    """`parse` reads the files and raises ConfigError, whose message is logged and so must hold no secret."""

    def __init__(self, paths: tuple[pathlib.Path, ...], parse: Callable[[], T]):
        self._paths, self._parse = paths, parse
        # Taken before the files are read: a change in between is seen as one.
        self._versions = [_version(path) for path in paths]
        self._retry_at: float | None = None  # monotonic seconds; None while the files are as good as their value
        self._value = parse()

    def current(self) -> T:
        """Costs a system call for each file."""
        versions = [_version(path) for path in self._paths]
        new = versions != self._versions
        if new or (self._retry_at is not None and time.monotonic() >= self._retry_at):
            self._versions, self._retry_at = versions, None
            try:
                self._value = self._parse()
            except ConfigError as error:
                self._retry_at = time.monotonic() + RETRY_S
                if new:
                    logger.error("the last good state stays in force: %s", error)
        return self._value


def read_text(path: pathlib.Path) -> str:
    """Raises ConfigError naming the file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def _version(path: pathlib.Path) -> tuple[int, ...] | None:
    """Differs after a change in place and after a replacement, by a symbolic link too; None while there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
