"""An event loop that is held up says so."""

import asyncio
import time

from drafthouse.telemetry.loop_lag import PAUSE_S, RECENT, LoopLag


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


def test_a_single_pause_in_half_a_minute_is_not_the_rule():
    lag = LoopLag()
    assert lag.late_s() == 0.0
    lag._recent.extend([0.001] * RECENT)
    for late in (0.5, 0.6, 0.7):
        assert lag.late_s() == 0.001
        lag._recent.append(late)
    lag._recent.append(0.4)
    assert lag.late_s() == 0.4


def test_what_a_thread_computes_is_its_share_of_a_core():
    lag = LoopLag()
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass
    assert 0.0 < lag.cpu_share() <= 1.0
    time.sleep(0.05)
    assert lag.cpu_share() < 0.5
