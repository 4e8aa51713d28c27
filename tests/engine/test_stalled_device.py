"""A device that does not come back from a step, in a process that lives: requests go on elsewhere, and nothing comes twice at a thaw."""

import asyncio
import threading
import time

import pytest

import drafthouse.policy.stall
import verifier.server
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import collect, connect, run, start_routed, until
from tests.engine.tiny_models import tiny
from tests.unit import linked
from verifier.server import VerifierServer

TOKENS = 60


@pytest.fixture(autouse=True)
def fast_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drafthouse.policy.stall, verifier.server):
        monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(drafthouse.policy.stall, "STALL_S", 0.4)


class Device:
    """A verifier's. `freeze`: its next step does not come back until `thaw`."""

    def __init__(self, server: VerifierServer):
        self._runner, self._frozen, self._goes = server.loop.engine.runner, False, threading.Event()
        self._run, self._runner.run = self._runner.run, self.run  # type: ignore[method-assign]
        self.hangs = threading.Event()

    def run(self, segments: list[Segment]) -> RunResult:
        if self._frozen:
            self.hangs.set()
            self._goes.wait(60)
        return self._run(segments)

    def freeze(self) -> None:
        self._frozen = True

    def thaw(self) -> None:
        self._frozen = False
        self._goes.set()


def test_texts_go_on_elsewhere_and_nothing_comes_twice_when_it_thaws() -> None:
    async def test() -> None:
        frozen, route = await start_routed("frozen")
        device, link, texts = Device(frozen), VerifierLink(5.0), prompts(4)
        link.update((route,))
        jobs = [linked.collect(link, request(str(i), text, TOKENS, mode="off")) for i, text in enumerate(texts)]
        running = [asyncio.create_task(job) for job in jobs]
        await until(lambda: frozen.loop.engine.totals.committed > 4 * len(texts), "all run")
        device.freeze()
        await until(device.hangs.is_set, "a step on the device")
        heir, other = await start_routed("heir")
        link.update((route, other))
        for text, task in zip(texts, running, strict=True):
            assert list(linked.tokens_of(await task)) == greedy(tiny("llama"), text, TOKENS)
        assert (link.failovers, sum(link.moves.values())) == (len(texts), 0)
        assert frozen.stalled, "it still hangs"
        assert frozen.takes_requests, "it may come back: no reason to replace it"
        engine = frozen.loop.engine
        assert len(engine.sequences) == len(texts), "the thread hangs with them"
        device.thaw()
        await until(lambda: not engine.sequences, "they are freed")
        assert engine.scheduler.allocator.free_count == engine.scheduler.allocator.count
        await until(lambda: not frozen.stalled, "it is seen to be back")
        stream = await connect(route.address)
        assert await collect(stream, request("new", texts[0], TOKENS, mode="off")) == greedy(tiny("llama"), texts[0], TOKENS)
        await stream.close()
        await link.close()
        await heir.stop()
        await frozen.stop()

    run(test)


def test_a_device_that_is_always_busy_is_not_stalled() -> None:
    async def test() -> None:
        busy, route = await start_routed("busy")
        runner, stream, [text], stalls = busy.loop.engine.runner, await connect(route.address), prompts(1), list[bool]()
        whole = runner.run

        def slow(segments: list[Segment]) -> RunResult:
            time.sleep(0.03)
            stalls.append(busy.stalled)
            return whole(segments)

        runner.run = slow  # type: ignore[method-assign]
        assert await collect(stream, request("a", text, TOKENS, mode="off")) == greedy(tiny("llama"), text, TOKENS)
        assert len(stalls) == TOKENS
        assert not any(stalls)
        await stream.close()
        await busy.stop()

    run(test)


def test_alone_it_is_waited_for() -> None:
    async def test() -> None:
        frozen, route = await start_routed("frozen")
        device, link, [text] = Device(frozen), VerifierLink(5.0), prompts(1)
        link.update((route,))
        running = asyncio.create_task(linked.collect(link, request("a", text, TOKENS, mode="off")))
        await until(lambda: frozen.loop.engine.totals.committed > 4, "it runs")
        device.freeze()
        await until(lambda: frozen.stalled, "it is seen to hang")
        late = asyncio.create_task(linked.collect(link, request("b", text, TOKENS, mode="off")))
        await until(lambda: link.running == 2, "a request that comes meanwhile waits, too")
        device.thaw()
        for task in (running, late):
            assert list(linked.tokens_of(await task)) == greedy(tiny("llama"), text, TOKENS)
        assert (link.failovers, sum(link.moves.values())) == (0, 0)
        await link.close()
        await frozen.stop()

    run(test)
