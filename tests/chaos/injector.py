"""Makes the faults of a plan happen, and says of each what was seen to be lost.

`lost` of a fault in the log is
    "process"       killed, and the process is gone;
    "connection"    stopped (state T), and the controller has taken it out of the cluster, or, where it is the controller
                    itself, a question to the cluster that was put after the signal got no answer; or cut off, and requests of a
                    verifier have gone elsewhere, or no verifier has the drafter any more;
    "device"        its device was frozen, and the same was seen as of a cut;
    null            nothing of the kind within NOTICE_S: the fault does not count.
`signalled` is when the signal was sent, `t` when the loss was seen, `overlooked` for how long after the signal at least
the controller had a stopped replica among the live ones (`tests.chaos.overlooked`). Promises: a fault strikes only while MIN_RUNNING
streams run, and a verifier only while another one is at work; every stopped process goes on, every cut heals and every frozen device
thaws, whatever happens.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil

from drafthouse.errors import DrafthouseError
from tests.chaos.cluster_view import ClusterView, until
from tests.chaos.cuts import Cuts
from tests.chaos.event_log import EventLog
from tests.chaos.faults import Fault
from tests.chaos.freezes import Freezes
from tests.chaos.overlooked import Overlooked
from tests.chaos.processes import Processes, gone, stopped
from tests.chaos.report import MIN_RUNNING
from tests.chaos.streams import Streams

RECOVERY_S = 240.0
"""For Serve to restart a replica, several times as long as on a quiet machine."""

NOTICE_S = 20.0
"""Less than Serve's health checks take to replace a stopped replica."""

NEEDED = {"verifier": 2, "drafter": 1, "controller": 1}
"""Processes at work before one is struck: without a verifier nothing would run that the next fault could disturb."""


class Injector:
    def __init__(self, view: ClusterView, streams: Streams, log: EventLog, tell: Callable[[str], None]):
        """`tell` gets a line for each fault."""
        self._view, self._streams, self._log, self._tell = view, streams, log, tell
        self._processes, self._cuts, self._freezes = Processes(), Cuts(), Freezes()
        self._away: set[int] = set()  # processes that are cut off, or whose device is frozen
        self._sleepers: list[asyncio.Task[None]] = []
        self._struck = time.monotonic()

    async def run(self, faults: Sequence[Fault]) -> None:
        """All of them, one after the other, and until the last stopped process goes on. Raises ConfigError where the cluster's
        processes are not this machine's, ChaosError where it does not recover between two faults."""
        try:
            for fault in faults:
                await asyncio.sleep(fault.pause_s)
                await self._strike(fault)
            await asyncio.gather(*self._sleepers)
        finally:
            self._processes.resume_all()
            self._cuts.heal_all()
            self._freezes.thaw_all()
            for task in self._sleepers:
                task.cancel()

    async def _strike(self, fault: Fault) -> None:
        if not await until(lambda: self._ready(fault.role), RECOVERY_S):
            raise ChaosError(
                f"{fault.kind}: after {RECOVERY_S:.0f} s not yet {NEEDED[fault.role]} {fault.role} process(es) at work"
                f" and {MIN_RUNNING} streams running, but {len(self._at_work(fault.role))} and {len(self._streams.running)}"
            )
        process = self._processes.find(self._victim(fault))
        if fault.way == "freeze" and not await until(lambda: self._freezes.freeze(process.pid), NOTICE_S):
            raise ChaosError(f"{fault.kind}: the device of process {process.pid} does nothing that could be frozen for {NOTICE_S:.0f} s")
        signalled, overlooked = self._log.now(), Overlooked()
        lost = await self._struck_by(fault, process, overlooked)
        self._struck = time.monotonic()
        self._log.write("fault", kind=fault.kind, pid=process.pid, signalled=signalled, lost=lost, overlooked=overlooked.seconds)
        seen = f"{lost} lost after {self._log.now() - signalled:.1f} s" if lost else "nothing seen to be lost"
        self._tell(f"{signalled:7.1f} s  {fault.kind} {process.pid}: {seen}, {len(self._streams.running)} streams running")

    async def _struck_by(self, fault: Fault, process: psutil.Process, overlooked: Overlooked) -> str | None:
        """What was seen to be lost. What can go on again does so later."""
        before = time.monotonic()
        if fault.way == "kill":
            process.kill()
            return "process" if await until(lambda: gone(process), NOTICE_S) else None
        if fault.way == "stop":
            self._processes.stop(process)
            watched = partial(self._given_up, fault.role, process, before, overlooked)
            lost = "connection" if await until(watched, NOTICE_S) else None
            self._later(fault.stopped_s, process.pid, partial(self._processes.resume, process.pid))
            return lost
        replica = next(replica for replica in self._view.pool(fault.role) if replica["pid"] == process.pid)
        left = partial(self._left_alone, fault.role, replica["replica"], self._view.failovers)
        self._away.add(process.pid)
        if fault.way == "freeze":
            lost, ends = "device", partial(self._freezes.thaw, process.pid)
        else:
            port = int(replica["address"].rpartition(":")[2])
            self._cuts.cut(port)
            lost, ends = "connection", partial(self._cuts.heal, port)
        seen = await until(left, NOTICE_S)
        self._later(fault.stopped_s, process.pid, ends)
        return lost if seen else None

    def _later(self, after_s: float, pid: int, ends: Callable[[], None]) -> None:
        async def end() -> None:
            await asyncio.sleep(after_s)
            ends()
            self._away.discard(pid)

        self._sleepers.append(asyncio.create_task(end()))

    def _victim(self, fault: Fault) -> int:
        """A verifier that is cut off or frozen is the busiest: the loss is seen by its requests."""
        pids = sorted(self._at_work(fault.role))
        if fault.way in ("cut", "freeze"):
            return int(max((r for r in self._view.pool(fault.role) if r["pid"] in pids), key=lambda r: r["load"])["pid"])
        return pids[int(fault.draw * len(pids))]

    def _ready(self, role: str) -> bool:
        """The answer must be to a question put after the fault before: an older one may come from a controller that is no more."""
        answered = self._view.fresh and self._view.answered > self._struck
        return answered and len(self._streams.running) >= MIN_RUNNING and len(self._at_work(role)) >= NEEDED[role]

    def _at_work(self, role: str) -> list[int]:
        return [pid for pid in self._view.pids(role) if pid not in self._away and self._processes.at_work(pid)]

    def _given_up(self, role: str, process: psutil.Process, since: float, overlooked: Overlooked) -> bool:
        if not stopped(process):
            return False
        if role == "controller":
            return self._view.unanswered > since
        there = process.pid in self._view.pids(role)
        overlooked.look(self._view.answered if there else None)
        return self._view.answered > since and not there

    def _left_alone(self, role: str, replica: str, failovers: float) -> bool:
        if role == "verifier":
            return self._view.failovers > failovers
        verifiers = self._view.pool("verifier")
        return bool(verifiers) and not any(f"trust.{replica}" in verifier["gauges"] for verifier in verifiers)


class ChaosError(DrafthouseError):
    """The cluster did not do in time what it should."""
