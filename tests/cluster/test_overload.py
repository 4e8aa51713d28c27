"""A real cluster with short queues: what is beyond them is refused with a time, and whoever goes away leaves nothing behind."""

import asyncio
import concurrent.futures
import pathlib
import threading
from collections.abc import Iterator

import grpc
import httpx
import pytest
from rich.console import Console

from benchmarks.cancel.bench import CancelOptions, in_use, run_cancel
from benchmarks.harness.paced_server import sums
from drafthouse.wire.settings import retry_after_s
from drafthouse.wire.transport import PLAINTEXT
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.cluster.serving import Serving
from tests.cluster.test_failures import stream_text
from tests.fuzz.findings import Findings
from tests.fuzz.run import Counts, Target, fuzz_cluster

pytestmark = pytest.mark.cluster_long
INPUTS = 300
PROMPT = "class Queue:\n    def __init__(self):\n"
LONG = {"model": "demo", "prompt": PROMPT, "max_tokens": 900, "seed": 3, "stop": ["\x00never"]}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Four sequences in a step, four that wait, twelve in the gateway."""
    folder: pathlib.Path = tmp_path_factory.mktemp("busy")
    server = Serving(folder, verifier={"max_sequences": 4, "max_queue": 4}, gateway={"max_ongoing_requests": 12})
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


def free(serving: Serving) -> bool:
    return not any(in_use(serving.cluster()).values())


def outcomes(serving: Serving, kind: str) -> float:
    """Requests that ended so in the gateways."""
    return sums(serving.cluster(), "gateway").get(f"outcome.{kind}", 0.0)


def running(serving: Serving) -> float:
    return in_use(serving.cluster())["running"]


async def http_stream(serving: Serving) -> None:
    http = httpx.AsyncClient(base_url=serving.url, timeout=60)
    async with http as client, client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        async for _ in answer.aiter_lines():
            pass


async def http_whole(serving: Serving) -> None:
    async with httpx.AsyncClient(base_url=serving.url, timeout=60) as client:
        await client.post("/v1/completions", json=LONG)


async def several_choices(serving: Serving) -> None:
    async with httpx.AsyncClient(base_url=serving.url, timeout=60) as client:
        await client.post("/v1/completions", json={**LONG, "n": 6})


async def grpc_whole(serving: Serving) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        await rpc.InferenceStub(channel).Generate(pb.GenerateRequest(**LONG))


async def grpc_stream(serving: Serving) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        async for _ in rpc.InferenceStub(channel).GenerateStream(pb.GenerateRequest(**LONG)):
            pass


async def grpc_deadline(serving: Serving) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.InferenceStub(channel).Generate(pb.GenerateRequest(**LONG), timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("way", [http_stream, http_whole, several_choices, grpc_whole, grpc_stream, grpc_deadline])
def test_a_client_that_goes_away_leaves_nothing_whatever_way_it_came(busy: Serving, way) -> None:
    """Whole answers several times: HAProxy as it comes missed the end of their connections one time in five."""

    async def cut() -> None:
        client = asyncio.create_task(way(busy))
        while not client.done() and not await asyncio.to_thread(running, busy):
            await asyncio.sleep(0.05)
        if way is not grpc_deadline:
            assert not client.done(), "it was to be cut in the middle"
            client.cancel()
        await asyncio.gather(client, return_exceptions=way is not grpc_deadline)

    for _ in range(6 if way in (http_whole, several_choices) else 1):
        before = outcomes(busy, "cancelled")
        asyncio.run(cut())
        busy.until(lambda: free(busy), "nothing is in use", 20)
        busy.until(lambda before=before: outcomes(busy, "cancelled") > before, "the gateway has counted it", 20)  # type: ignore[misc]


def test_all_are_served_or_told_when_to_come_again_and_streams_in_progress_go_on(busy: Serving) -> None:
    body = {"prompt": PROMPT, "max_tokens": 500, "temperature": 0.8, "seed": 11}
    want = busy.complete(**body)["choices"][0]["text"]
    reached, texts = threading.Event(), []

    thread = threading.Thread(target=lambda: texts.append(stream_text(busy, reached, **body)))
    thread.start()
    assert reached.wait(60)

    def one(seed: int) -> httpx.Response:
        request = {"model": "demo", "prompt": PROMPT, "max_tokens": 24, "seed": seed, "stream": seed % 2 == 0, "ignore_eos": True}
        return httpx.post(f"{busy.url}/v1/completions", json=request, timeout=120)

    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(one, range(60)))
    thread.join(120)
    assert texts == [want]
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.json()["error"]["code"] == "overloaded"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        elif "text/event-stream" in answer.headers["content-type"]:
            assert answer.text.endswith("data: [DONE]\n\n")
            assert '"error"' not in answer.text
        else:
            assert answer.json()["usage"]["completion_tokens"] == 24
    busy.until(lambda: free(busy), "nothing is in use", 20)
    refused = sum(answer.status_code == 429 for answer in answers)
    assert outcomes(busy, "refused") >= refused


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_over_grpc_a_refusal_has_a_status_and_a_time(busy: Serving, method: str) -> None:
    async def flood() -> list[grpc.aio.AioRpcError]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{busy.grpc_port}") as channel:
            stub = rpc.InferenceStub(channel)
            request = pb.GenerateRequest(model="demo", prompt=PROMPT, max_tokens=48)

            async def one() -> grpc.aio.AioRpcError | None:
                try:
                    if method == "Generate":
                        assert (await stub.Generate(request, timeout=120)).finish_reason
                    else:
                        assert [chunk.finish_reason async for chunk in stub.GenerateStream(request, timeout=120)][-1]
                except grpc.aio.AioRpcError as error:
                    return error
                return None

            return [error for error in await asyncio.gather(*(one() for _ in range(40))) if error is not None]

    errors = asyncio.run(flood())
    assert 0 < len(errors) < 40
    for error in errors:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
        assert "try again in" in (error.details() or "")
        assert retry_after_s(error.trailing_metadata() or ()) is not None


def test_a_request_that_can_never_fit_is_told_so_at_once(busy: Serving) -> None:
    for extra, param in (({"prompt": [1] * 20_000}, "prompt"), ({"n": 13}, "n")):
        answer = httpx.post(f"{busy.url}/v1/completions", json={**LONG, **extra}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.timeout(300)
def test_many_short_requests_a_fifth_of_them_cut_anywhere(busy: Serving) -> None:
    """The short form of `drafthouse bench cancel`."""
    options = CancelOptions(requests=200, share=0.2, in_flight=16, tokens=(4, 24), seed=1)
    report = run_cancel(options, busy.url, f"127.0.0.1:{busy.grpc_port}", Console(quiet=True))
    assert report["held"], report
    assert report["cancelled"] == 40
    assert 160 <= report["finished"] < 180, "those whose cut came too late at the very end were sent once more"


def test_mutated_input_on_every_port_leaves_it_as_it_was(busy: Serving) -> None:
    findings, target = Findings(), Target(busy.url, f"127.0.0.1:{busy.grpc_port}", {}, PLAINTEXT)
    asyncio.run(fuzz_cluster(target, Counts(INPUTS, in_flight=4, seed=2), findings, lambda: None))
    assert findings.kept == []
    assert findings.inputs() >= 0.95 * INPUTS
