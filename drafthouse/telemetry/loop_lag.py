"""How late an event loop is: what holds it up holds up every stream of its process.

Promises: one short sleep at a time, ten a second; nothing per request.
"""

import asyncio
import time
from collections import deque

PAUSE_S = 0.1
KEPT_SAMPLES = 10_000
"""Where no exporter takes them out, the oldest go."""


class LoopLag:
    """`samples`: by how many seconds each sleep took too long."""

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=KEPT_SAMPLES)
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

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + PAUSE_S
            await asyncio.sleep(PAUSE_S)
            self.samples.append(max(0.0, time.monotonic() - due))
