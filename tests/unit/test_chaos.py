"""The parts of a chaos run that need no cluster: the plan, the work, the signals, and what a client logs."""

import asyncio
import io
import json
import subprocess
import sys
from collections import Counter

import grpc
import psutil
import pytest

from drafthouse.errors import ConfigError
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.chaos.event_log import EventLog
from tests.chaos.faults import CUTS, FREEZES, KINDS, Kind, plan
from tests.chaos.overlooked import LOOK_S, Overlooked
from tests.chaos.processes import REPLICA, Processes, gone, stopped
from tests.chaos.streams import Stream, Streams
from tests.chaos.work import SAMPLINGS, SPECULATIONS, Work, from_json, make_works

WORK = make_works([[1, 2]], 1, 8, seed=0)[0]


@pytest.mark.parametrize("kinds", [KINDS, (*KINDS, *CUTS, *FREEZES)], ids=["signals", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_faults_come_in_rounds_of_one_of_each_kind(seed: int, kinds: tuple[Kind, ...]) -> None:
    every = len(kinds)
    faults = plan(2 * every + 3, seed, kinds)
    assert len(faults) == 2 * every + 3
    for start in (0, every):
        assert Counter(fault.kind for fault in faults[start : start + every]) == Counter("-".join(kind) for kind in kinds)
    assert faults == plan(2 * every + 3, seed, kinds)
    assert faults != plan(2 * every + 3, seed + 1, kinds)


def overlooked(answers: list[tuple[int, float | None]], looks: int) -> float:
    """`answers`: (at which look it came, when its question was put, or None where the process was not in it any more)."""
    it, asked = Overlooked(), 0.0
    latest: float | None = asked
    for look in range(1, looks + 1):
        latest = dict(answers).get(look, latest)
        it.look(latest)
    return it.seconds


def test_only_time_that_is_certainly_the_clusters_counts() -> None:
    assert overlooked([], 100) == 0.0, "no answer, no knowledge"
    assert overlooked([(50, 1.0)], 100) == 0.0, "its question may have been put before the signal"
    assert overlooked([(50, 1.0), (100, 2.0)], 120) == pytest.approx(49 * LOOK_S), "the second was put after the first had come"
    assert overlooked([(50, 1.0), (100, 2.0), (110, None)], 1000) == pytest.approx(49 * LOOK_S), "noticed"
    assert overlooked([(i, float(i)) for i in range(10, 500, 10)], 500) == pytest.approx(479 * LOOK_S)


def test_too_few_faults_are_refused() -> None:
    with pytest.raises(ConfigError, match="--faults 5"):
        plan(len(KINDS) - 1, 0)


def test_work_has_every_kind_and_survives_the_log() -> None:
    works = make_works([[1], [2, 3]], 12, 8, seed=4)
    assert len({(work.sampling, work.speculation) for work in works}) == len(SAMPLINGS) * len(SPECULATIONS)
    assert len({work.seed for work in works}) == len(works)
    assert not {work.seed for work in works} & {work.seed for work in make_works([[1]], 12, 8, seed=5)}
    assert [from_json(json.loads(json.dumps(work.as_json()))) for work in works] == works


def sleeper(name: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True); import time; time.sleep(60)", name], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_stopped_replica_is_no_longer_at_work_until_resumed() -> None:
    child = sleeper(REPLICA)
    processes = Processes()
    try:
        process = processes.find(child.pid)
        processes.stop(process)
        while not stopped(process):  # a signal takes its time
            pass
        assert not processes.at_work(child.pid)
        assert not gone(process)
        processes.resume_all()
        assert processes.at_work(child.pid)
        child.kill()
        while not gone(process):  # a zombie until it is waited for, which Ray may be slow to do
            pass
        assert not processes.at_work(child.pid)
    finally:
        child.kill()
        child.wait()
    assert gone(process)


def test_only_replicas_are_struck() -> None:
    child = sleeper("anything")
    child_pid = child.pid
    try:
        with pytest.raises(ConfigError, match=str(child_pid)):
            Processes().find(child_pid)
    finally:
        child.kill()
        child.wait()
    assert not psutil.pid_exists(child_pid)
    with pytest.raises(ConfigError, match=str(child_pid)):
        Processes().find(child_pid)


class Server(rpc.InferenceServicer):
    """Sends the chunks, then ends, breaks or never ends."""

    def __init__(self, chunks: list[pb.GenerateChunk], then: str):
        self.chunks, self.then = chunks, then

    async def GenerateStream(self, request, context):
        for chunk in self.chunks:
            yield chunk
        if self.then == "breaks":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no verifier")
        elif self.then == "hangs":
            await asyncio.Event().wait()


def streamed(chunks: list[pb.GenerateChunk], then: str = "ends", work: Work = WORK) -> tuple[Stream | None, list[dict], list[int]]:
    """The stream unless it was cancelled, its log, and how many ran when each chunk had come and after the end."""

    async def run():
        server = grpc.aio.server()
        rpc.add_InferenceServicer_to_server(Server(chunks, then), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        file = io.StringIO()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                streams = Streams(channel, "demo", EventLog(file))
                task = asyncio.create_task(streams.one("r", work, "f"))
                running = []
                if then == "hangs":
                    while file.getvalue().count("\n") < 1 + sum(len(chunk.tokens) for chunk in chunks):
                        await asyncio.sleep(0)
                    running.append(len(streams.running))
                    task.cancel()
                stream = (await asyncio.gather(task, return_exceptions=True))[0]
                running.append(len(streams.running))
        finally:
            await server.stop(None)
        return stream, [json.loads(line) for line in file.getvalue().splitlines()], running

    return asyncio.run(run())


CHUNKS = [
    pb.GenerateChunk(tokens=[7, 8], first_token_index=0, attempt=1),
    pb.GenerateChunk(tokens=[9], first_token_index=2, attempt=3),
]
END = pb.GenerateChunk(first_token_index=3, attempt=3, finish_reason="stop", usage=pb.Usage(completion_tokens=3))


def test_the_log_has_what_the_server_said() -> None:
    stream, (start, *tokens, end), running = streamed([*CHUNKS, END])
    assert (start["event"], start["reference"], from_json(start)) == ("start", "f", WORK)
    assert [(e["attempt"], e["position"], e["token"]) for e in tokens] == [(1, 0, 7), (1, 1, 8), (3, 2, 9)]
    assert (end["event"], end["attempt"], end["position"], end["reason"]) == ("end", 3, 3, "stop")
    assert "error" not in end
    assert running == [0]
    assert stream is not None
    assert stream.error == ""


@pytest.mark.parametrize(("then", "error"), [("breaks", "UNAVAILABLE: no verifier"), ("ends", "without a finish reason")])
def test_a_stream_without_an_end_is_an_error(then: str, error: str) -> None:
    _, events, running = streamed(CHUNKS, then)
    assert (events[-1]["event"], events[-1]["reason"]) == ("end", "error")
    assert error in events[-1]["error"]
    assert running == [0]


def test_a_cancelled_stream_ran_and_has_an_end() -> None:
    _, events, running = streamed(CHUNKS, "hangs")
    assert (events[-1]["event"], events[-1]["error"]) == ("end", "cancelled")
    assert running == [1, 0]
