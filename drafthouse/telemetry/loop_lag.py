"""How late an event loop is, and how busy: what holds it up holds up every stream of its process.

Promises: one short sleep at a time, ten a second; nothing per request.
"""

import asyncio
import time
from collections import deque

PAUSE_S = 0.1
KEPT_SAMPLES = 10_000
"""Where no exporter takes them out, the oldest go."""


RECENT = 300
"""Sleeps, half a minute: one in a hundred of them is three, so that a single pause is not taken for the rule."""


class LoopLag:
    """`samples`: by how many seconds each sleep took too long."""

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=KEPT_SAMPLES)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._looked, self._used = time.monotonic(), time.thread_time()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Needs the running event loop; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="loop-lag")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def late_s(self) -> float:
        """By how much at least the latest one in a hundred of the last RECENT sleeps were too long; 0 before the first."""
        return sorted(self._recent)[-1 - len(self._recent) // 100] if self._recent else 0.0

    def cpu_share(self) -> float:
        """The part of a core that the calling thread, which is to be the loop's, has used since the last call."""
        now, used = time.monotonic(), time.thread_time()
        share = max(0.0, used - self._used) / max(now - self._looked, 1e-6)
        self._looked, self._used = now, used
        return min(share, 1.0)

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + PAUSE_S
            await asyncio.sleep(PAUSE_S)
            late = max(0.0, time.monotonic() - due)
            self.samples.append(late)
            self._recent.append(late)
