"""Silence is counted in the listener's own beats: a peer that says nothing is dead, a listener that was held up says nothing of it."""

import asyncio
import time

import pytest

from drafthouse.config.serving import ControllerConfig
from drafthouse.engine.parallel.followers import STOPPED_LOOKS, WATCH_S
from drafthouse.wire import silence
from drafthouse.wire.heartbeat import ANSWER_TIMEOUT_S
from drafthouse.wire.silence import BEAT_S, SILENT_BEATS, Silence, while_heard


def test_so_many_beats_without_a_word():
    one = Silence()
    assert [one.beat() for _ in range(SILENT_BEATS)] == [False] * (SILENT_BEATS - 1) + [True]


def test_a_word_starts_the_count_anew():
    one = Silence()
    for _ in range(3):
        for _ in range(SILENT_BEATS - 1):
            assert not one.beat()
        one.heard()


@pytest.fixture
def beats_of_10ms(monkeypatch):
    monkeypatch.setattr(silence, "BEAT_S", 0.01)


def test_work_goes_on_while_it_hears_and_its_result_is_its_own(beats_of_10ms):
    async def work(one: Silence) -> None:
        for _ in range(4 * SILENT_BEATS):
            await asyncio.sleep(0.01)
            one.heard()
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        asyncio.run(while_heard(one := Silence(), work(one)))


def test_work_that_hears_nothing_is_cancelled(beats_of_10ms):
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(ConnectionError, match="nothing was heard"):
        asyncio.run(asyncio.wait_for(while_heard(Silence(), work()), 2.0))
    assert ended == [True]


def test_a_listener_that_was_held_up_does_not_blame_the_peer(beats_of_10ms):
    """The peer speaks every beat; the listener's process gets no CPU for many beats, again and again."""

    async def test() -> None:
        one, said = Silence(), asyncio.Queue()

        async def work() -> None:
            for _ in range(20):
                await said.get()
                one.heard()
                time.sleep(2 * SILENT_BEATS * 0.01)

        async def peer() -> None:
            while True:
                said.put_nowait(None)
                await asyncio.sleep(0.01)

        speaking = asyncio.create_task(peer())
        await while_heard(one, work())
        speaking.cancel()

    asyncio.run(asyncio.wait_for(test(), 10.0))


def test_whatever_is_stopped_is_noticed_within_three_seconds() -> None:
    """docs/failover.md promises it: by its peers, by the controller in a small pool, by rank 0; half a second is left."""
    config = ControllerConfig()
    assert SILENT_BEATS * BEAT_S <= 2.5
    assert config.heartbeat_s * config.expire_heartbeats <= 2.5
    assert STOPPED_LOOKS * WATCH_S <= 2.5


def test_one_answer_that_is_lost_takes_no_replica_out() -> None:
    config = ControllerConfig()
    assert ANSWER_TIMEOUT_S + config.heartbeat_s < config.heartbeat_s * config.expire_heartbeats
