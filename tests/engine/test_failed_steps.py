"""A step that raises: the request that is its cause ends with an error, the others go on; a device that is broken ends the thread."""

import asyncio
import threading

import pytest

from deployments.gateway.request_progress import Broken, Unreachable
from drafthouse.config.serving import VerifierConfig
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.wire.generation_messages import GenerateReply
from tests.engine.driven_verifier import Setting
from tests.engine.pairs import prompts, request
from tests.engine.servers import refusal, run, start_verifier, until
from tests.engine.test_verifier_engine import PROMPT, TEXT

POISON = 9


class Poisoned(Setting):
    """Steps with the token POISON in a prompt raise, and so does each one whose number is in `broken_runs`."""

    def __init__(self, max_sequences: int = 4, step_tokens: int = 512):
        super().__init__(max_sequences=max_sequences, step_tokens=step_tokens)
        self.runs, self.broken_runs = 0, set[int]()
        self._run, self.engine.runner.run = self.engine.runner.run, self.run  # type: ignore[method-assign]

    def run(self, segments: list[Segment]) -> RunResult:
        self.runs += 1
        if self.runs in self.broken_runs or any(POISON in segment.tokens for segment in segments):
            raise RuntimeError("out of memory")
        return self._run(segments)

    def finish_in_spite(self) -> list[GenerateReply]:
        """As the step loop does."""
        last = []
        while self.engine.sequences:
            try:
                last += [reply for reply in self.step() if reply.finish_reason]
            except RuntimeError as error:
                last += self.engine.recover(str(error))
        assert self.engine.scheduler.allocator.free_count == self.engine.scheduler.allocator.count, "KV slots leaked"
        return last


def test_only_the_cause_of_a_failed_step_fails() -> None:
    it = Poisoned()
    for name in "abc":
        it.submit(request(name, PROMPT, 10, mode="off"))
    it.step()
    it.submit(request("bad", (1, POISON, 3), 10, mode="off"))
    ends = {reply.request_id: (reply.finish_reason, reply.error) for reply in it.finish_in_spite()}
    assert ends == {"bad": ("error", "out of memory"), "a": ("length", ""), "b": ("length", ""), "c": ("length", "")}
    assert [tuple(it.outputs[name]) for name in "abc"] == [TEXT[:10]] * 3


def test_a_fault_that_is_nobodys_fails_nobody() -> None:
    """As when one large step does not fit into memory: alone each goes through, and together again later."""
    it = Poisoned()
    for name in "abc":
        it.submit(request(name, PROMPT, 10, mode="off"))
    it.broken_runs = {4}
    assert [reply.finish_reason for reply in it.finish_in_spite()] == ["length"] * 3
    assert [tuple(it.outputs[name]) for name in "abc"] == [TEXT[:10]] * 3
    assert it.runs == 3 + 1 + 3 + 6, "three together, the failed one, one each alone, the rest together"


def test_what_was_committed_before_a_step_broke_is_said() -> None:
    """One has its last token, then the bookkeeping of the next one raises: the first ends well, the other goes on."""
    it = Poisoned()
    it.submit(request("a", PROMPT, 3, mode="off"))
    it.submit(request("b", PROMPT, 10, mode="off"))
    it.step()
    it.step()
    follow, it.engine.session_policy.follow = it.engine.session_policy.follow, broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        it.step()
    it.engine.session_policy.follow = follow  # type: ignore[method-assign]
    said = it.engine.recover("division by zero")
    assert [(reply.request_id, reply.tokens, reply.finish_reason) for reply in said] == [("a", TEXT[2:3], "length"), ("b", TEXT[2:3], "")]
    it.outputs["b"] += said[1].tokens
    assert [reply.finish_reason for reply in it.finish_in_spite()] == ["length"]
    assert tuple(it.outputs["b"]) == TEXT[:10]


def broken(*_: object) -> None:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(("names", "broken_runs", "cached"), [("a", {2}, 0), ("ab", {2}, len(PROMPT) + 1), ("ab", {2, 3}, len(PROMPT) + 1)])
def test_what_a_failed_step_may_have_spoilt_is_not_cached(names: str, broken_runs: set[int], cached: int) -> None:
    """The steps break before they have written anything. Nor is what was there before: what c finds was computed again since."""
    it = Poisoned()
    it.engine.runner.cache.share_prefixes()
    for name in names:
        it.submit(request(name, PROMPT, 10, mode="off"))
    it.step()
    it.broken_runs = broken_runs
    ends = {reply.request_id: reply.finish_reason for reply in it.finish_in_spite()}
    assert list(ends.values()).count("error") == len(broken_runs) + 1 - len(names)
    it.submit(request("c", (*PROMPT, *TEXT[:2]), 8, mode="off"))
    [reply] = it.finish()
    assert reply.usage.cached_tokens == cached
    assert tuple(it.outputs["c"]) == TEXT[2:10]
    assert all(tuple(it.outputs[name]) == TEXT[:10] for name, end in ends.items() if end == "length")


def test_chunks_of_a_request_that_fails_alone_are_not_cached() -> None:
    """Its first chunk went through and was shared; what the next one broke may be among it."""
    it = Poisoned(step_tokens=16)
    it.engine.runner.cache.share_prefixes()
    for name, prompt in (("a", PROMPT), ("b", (8,) * 20)):
        it.submit(request(name, prompt, 10, mode="off"))
    it.broken_runs = {1, 4}
    with pytest.raises(RuntimeError):
        it.step()
    assert it.engine.recover("out of memory") == []
    it.step()
    it.step()
    with pytest.raises(RuntimeError):
        it.step()
    assert [reply.request_id for reply in it.engine.recover("out of memory")] == ["b"]
    assert it.engine.scheduler.allocator.cached_count == 0
    assert [reply.finish_reason for reply in it.finish_in_spite()] == ["length"]


def test_what_waits_stays_out_of_it_and_a_suspect_may_be_cancelled() -> None:
    it = Poisoned(max_sequences=2)
    for name in "abc":
        it.submit(request(name, PROMPT, 10, mode="off"))
    it.broken_runs = {2}
    it.step()
    with pytest.raises(RuntimeError):
        it.step()
    assert it.engine.recover("out of memory") == []
    assert [s.id for s in it.engine.scheduler.suspects] == ["a", "b"]
    it.engine.cancel("b", 1)
    assert {reply.request_id for reply in it.finish()} == {"a", "c"}
    assert [tuple(it.outputs[name]) for name in "ac"] == [TEXT[:10]] * 2


def test_a_device_that_works_no_longer_is_nobodys_fault() -> None:
    it = Poisoned()
    it.submit(request("a", PROMPT, 10, mode="off"))
    it.step()
    it.broken_runs = set(range(2, 100))
    with pytest.raises(RuntimeError):
        it.step()
    with pytest.raises(RuntimeError, match="out of memory"):
        it.engine.recover("out of memory")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_streams_of_a_verifier_whose_device_broke_go_elsewhere() -> None:
    """They end as unavailable, not with an error of the request, and nothing new is taken."""

    async def test() -> None:
        verifier, stream = await start_verifier()

        def broken(segments: list[Segment]) -> RunResult:
            raise RuntimeError("device lost")

        running = asyncio.create_task(refusal(stream, request("a", prompts(1)[0], 400)))
        await until(lambda: verifier.loop.engine.totals.committed > 5, "it runs")
        verifier.loop.engine.runner.run = broken  # type: ignore[method-assign]
        assert await running == (Broken, "its stream broke (UNAVAILABLE)")
        assert not verifier.takes_requests
        assert (await refusal(stream, request("b", [1, 2], 5)))[0] is Unreachable
        await stream.close()
        await verifier.stop()

    run(test)


def test_a_step_that_does_not_come_back_gives_its_requests_up() -> None:
    """Without it they would get signs of life for ever; a step within the limit changes nothing."""

    async def test() -> None:
        verifier, stream = await start_verifier(VerifierConfig(step_limit_s=0.5))
        comes_back, runner = threading.Event(), verifier.loop.engine.runner
        whole = runner.run

        def hanging(segments: list[Segment]) -> RunResult:
            comes_back.wait(30)
            return whole(segments)

        running = asyncio.create_task(refusal(stream, request("a", prompts(1)[0], 400)))
        await until(lambda: verifier.loop.engine.totals.committed > 5, "it runs")
        assert verifier.loop.trouble == ""
        runner.run = hanging  # type: ignore[method-assign]
        assert await running == (Broken, "its stream broke (UNAVAILABLE)")
        assert not verifier.takes_requests
        comes_back.set()
        await until(lambda: verifier.takes_requests, "the device is back")
        await stream.close()
        await verifier.stop()

    run(test)
