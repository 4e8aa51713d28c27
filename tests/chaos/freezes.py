"""Freezes a replica's device: the thread that computes is stopped inside the native decoder, while its process lives and beats.

Nothing of the product takes part. ptrace stops one thread, and only where its next instruction lies in the decoder's library: there it
holds no lock of the interpreter, as in a kernel that does not come back. Promises: after `thaw_all`, and when this process ends, none
that was frozen here is. All calls come from one thread, as ptrace wants it. Linux; needs root, or the right to trace.
"""

import contextlib
import ctypes
import os
import pathlib
from collections.abc import Iterator

LIBRARY = "/decoder-"
"""In the path of the library whose code runs on the device, a CPU."""

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h
WAIT_FOR_ANY_THREAD = 0x40000000  # __WALL

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Freezes:
    def __init__(self) -> None:
        self._frozen: dict[int, int] = {}  # by process: its thread

    def freeze(self, pid: int) -> bool:
        """Whether a thread of it was just met on the device; it stays there. One that computes half of the time is met at every second or
        third try. Raises OSError where tracing is not allowed."""
        code = list(_device_code(pid))
        for thread in _threads(pid):
            if _stop(thread):
                if any(_program_counter(pid, thread) in part for part in code):
                    self._frozen[pid] = thread
                    return True
                _go_on(thread)
        return False

    def thaw(self, pid: int) -> None:
        thread = self._frozen.pop(pid, None)
        if thread is not None:
            _go_on(thread)

    def thaw_all(self) -> None:
        for pid in list(self._frozen):
            self.thaw(pid)


def possible() -> bool:
    """Root may trace; others might, where the system says so."""
    return os.geteuid() == 0 and pathlib.Path("/proc/self/syscall").exists()


def _device_code(pid: int) -> Iterator[range]:
    """Addresses of the decoder's code in the process."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        addresses, rights, *_ = line.split()
        if LIBRARY in line and "x" in rights:
            first, last = (int(address, 16) for address in addresses.split("-"))
            yield range(first, last)


def _threads(pid: int) -> list[int]:
    """Those that run: whatever waits is not on the device."""
    running = []
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "R":
                running.append(int(thread.name))
    return running


def _stop(thread: int) -> bool:
    """False where it has ended meanwhile."""
    try:
        _call(SEIZE, thread)
        _call(INTERRUPT, thread)
        _, status = os.waitpid(thread, WAIT_FOR_ANY_THREAD)
    except (ProcessLookupError, ChildProcessError):
        return False
    return os.WIFSTOPPED(status)


def _program_counter(pid: int, thread: int) -> int:
    """Of a stopped thread: the last field. In a system call it lies in libc."""
    return int(pathlib.Path(f"/proc/{pid}/task/{thread}/syscall").read_text(encoding="utf-8").split()[-1], 16)


def _go_on(thread: int) -> None:
    """One that was killed stays, and its process with it, until its tracer has heard of it."""
    try:
        _call(DETACH, thread)
    except ProcessLookupError:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(thread, WAIT_FOR_ANY_THREAD)


def _call(request: int, thread: int) -> None:
    """Raises OSError."""
    if _ptrace(request, thread, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
