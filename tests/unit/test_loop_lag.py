"""An event loop that is held up says so."""

import asyncio
import time

from drafthouse.telemetry.loop_lag import PAUSE_S, LoopLag


def test_what_holds_the_loop_is_measured():
    async def run() -> list[float]:
        lag = LoopLag()
        lag.start()
        await asyncio.sleep(0)
        time.sleep(3 * PAUSE_S)
        while not lag.samples:
            await asyncio.sleep(0.01)
        await lag.stop()
        return list(lag.samples)

    assert asyncio.run(run())[0] >= PAUSE_S
