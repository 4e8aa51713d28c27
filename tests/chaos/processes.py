"""Signals to the replicas' processes on this machine.

Promises: only a Serve replica's process is ever signalled, and never another one that got its id; after `resume_all` none
that was stopped here is stopped.
"""

import contextlib

import psutil

from drafthouse.errors import ConfigError

REPLICA = "ray::ServeReplica"
"""How Ray names the process of a replica."""


class Processes:
    def __init__(self) -> None:
        self._stopped: dict[int, psutil.Process] = {}

    def find(self, pid: int) -> psutil.Process:
        """Raises ConfigError where it is not the process of a replica on this machine."""
        try:
            process = psutil.Process(pid)
            if any(part.startswith(REPLICA) for part in process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            pass
        raise ConfigError(f"process {pid} is no Serve replica of this machine: faults are made where the cluster runs")

    def at_work(self, pid: int) -> bool:
        """Alive and not stopped."""
        try:
            return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def stop(self, process: psutil.Process) -> None:
        self._stopped[process.pid] = process
        process.suspend()

    def resume(self, pid: int) -> None:
        process = self._stopped.pop(pid, None)
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):  # Serve may have replaced it meanwhile
                process.resume()

    def resume_all(self) -> None:
        for pid in list(self._stopped):
            self.resume(pid)


def gone(process: psutil.Process) -> bool:
    """Whether it has died; a zombie has, whoever is still to hear of it."""
    try:
        return not process.is_running() or process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def stopped(process: psutil.Process) -> bool:
    """State T."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
