"""Ray's session folders of servers that `drafthouse serve` started: their logs stay when the server has gone.

Promises: of a session that is over, `logs/` and the mark alone stay, and of those KEPT at most; sessions of others are not touched.
`/tmp/ray/session_latest` never points at nothing, so that Ray can move it: it leaves a dangling one as it is.
"""

import contextlib
import json
import os
import pathlib
import shutil
from dataclasses import asdict, dataclass

import psutil

ROOT = pathlib.Path("/tmp/ray")
LATEST = "session_latest"
MARK = "drafthouse.json"
KEPT = 10
"""Sessions that are over; each has a few MB of logs, since Ray rotates them."""


@dataclass(frozen=True, slots=True)
class Session:
    """One start of `drafthouse serve`; `began` in Unix seconds."""

    folder: pathlib.Path
    http_port: int
    pid: int
    began: float

    @property
    def logs(self) -> pathlib.Path:
        return self.folder / "logs"


def of_process(pid: int, root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """Session folders that a process has made, the tries included that failed: Ray puts the process's id into the name."""
    return sorted(folder for folder in root.glob(f"session_*_{pid}") if not folder.is_symlink())


def mark(session: Session) -> None:
    """Says that the session is ours. What cannot be written costs the logs their name, not the server its start."""
    told = {name: value for name, value in asdict(session).items() if name != "folder"}
    with contextlib.suppress(OSError):
        (session.folder / MARK).write_text(json.dumps(told), encoding="utf-8")


def marked(root: pathlib.Path = ROOT) -> list[Session]:
    """All of this user's that are there, the latest first."""
    found = []
    for file in root.glob(f"session_*/{MARK}"):
        if file.parent.is_symlink():
            continue
        with contextlib.suppress(OSError, ValueError, TypeError):
            if file.stat().st_uid == os.getuid():
                found.append(Session(file.parent, **json.loads(file.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda session: session.began, reverse=True)


def trim(folder: pathlib.Path) -> None:
    """Takes everything from a session that is over, except logs and mark."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name in ("logs", MARK):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def forget_old(root: pathlib.Path = ROOT, kept: int = KEPT) -> None:
    """Removes the oldest of those that are over, and the link where it points at none."""
    over = [session for session in marked(root) if session.pid == os.getpid() or not psutil.pid_exists(session.pid)]
    for session in over[kept:]:
        shutil.rmtree(session.folder, ignore_errors=True)
    unlink_dangling(root)


def unlink_dangling(root: pathlib.Path = ROOT) -> None:
    """Ray neither follows nor replaces a link to a session that is gone."""
    latest = root / LATEST
    if latest.is_symlink() and not latest.exists():
        with contextlib.suppress(OSError):
            latest.unlink()
