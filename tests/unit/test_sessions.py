"""Logs of servers that have gone: kept, found, and forgotten in time; nobody else's are touched."""

import os
import pathlib

from deployments.cli.sessions import LATEST, Session, forget_old, mark, marked, of_process, trim, unlink_dangling

GONE = 2**22 - 1
"""No process has this id."""


def _session(root: pathlib.Path, name: str, pid: int = GONE, began: float = 1.0) -> Session:
    session = Session(root / f"session_{name}_{pid}", 8000, pid, began)
    (session.logs / "serve").mkdir(parents=True)
    (session.folder / "sockets").mkdir()
    (session.folder / "node_ip_address.json").write_text("{}")
    mark(session)
    return session


def test_of_a_session_that_is_over_the_logs_stay_and_nothing_else(tmp_path: pathlib.Path) -> None:
    session = _session(tmp_path, "a")
    trim(session.folder)
    assert sorted(entry.name for entry in session.folder.iterdir()) == ["drafthouse.json", "logs"]
    assert marked(tmp_path) == [session]


def test_the_latest_comes_first_and_the_oldest_are_forgotten(tmp_path: pathlib.Path) -> None:
    sessions = [_session(tmp_path, str(number), began=float(number)) for number in range(4)]
    others = tmp_path / "session_someone_else_1"
    (others / "logs").mkdir(parents=True)
    forget_old(tmp_path, kept=2)
    assert marked(tmp_path) == [sessions[3], sessions[2]]
    assert others.is_dir()


def test_a_session_whose_server_runs_is_not_forgotten(tmp_path: pathlib.Path) -> None:
    running = _session(tmp_path, "running", pid=os.getppid(), began=0.0)
    _session(tmp_path, "over", began=2.0)
    forget_old(tmp_path, kept=0)
    assert marked(tmp_path) == [running]


def test_a_link_to_a_session_that_is_gone_is_removed_and_any_other_stays(tmp_path: pathlib.Path) -> None:
    session = _session(tmp_path, "a")
    (tmp_path / LATEST).symlink_to(session.folder)
    unlink_dangling(tmp_path)
    assert (tmp_path / LATEST).is_symlink()
    forget_old(tmp_path, kept=0)
    assert not (tmp_path / LATEST).is_symlink()


def test_the_folders_of_a_process_are_found_by_its_id(tmp_path: pathlib.Path) -> None:
    mine = _session(tmp_path, "a", pid=77)
    _session(tmp_path, "b", pid=177)
    assert of_process(77, tmp_path) == [mine.folder]
