"""When a peer that says nothing is taken for dead: after SILENT_BEATS beats of the listener's own clock (docs/failover.md).

Promises: beats are counted, not seconds. A listener that was itself held up, by a busy CPU or a stopped machine, takes what
has arrived before it counts on, so its own delay is never held against the peer.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

BEAT_S = 0.5
"""Whoever has nothing to say on a stream says so at this interval."""

SILENT_BEATS = 5
"""A stopped process is noticed 2 to 2.5 s after its last word; one that runs may be late by 2 s."""


class Silence:
    """Beats since the peer was last heard."""

    def __init__(self) -> None:
        self._beats = 0

    def heard(self) -> None:
        self._beats = 0

    def beat(self) -> bool:
        """One beat more has passed; whether the peer is now taken for dead."""
        self._beats += 1
        return self._beats >= SILENT_BEATS


async def while_heard(silence: Silence, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`, which calls `silence.heard()`. Raises ConnectionError, with `work` cancelled, when the peer falls silent."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=BEAT_S))[0]:
            if silence.beat():
                raise ConnectionError(f"nothing was heard for {SILENT_BEATS * BEAT_S:g} s")
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
