"""Verifiers and drafters whose settings change while they serve, over real gRPC: no stream notices, and what comes later follows them."""

import asyncio

import grpc

from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import RawDrafter, collect, refusal, run, start_drafter, start_verifier, until
from tests.engine.tiny_models import tiny


def test_a_verifiers_queue_grows_while_it_serves() -> None:
    async def test() -> None:
        verifier, stream = await start_verifier(VerifierConfig(max_sequences=1, max_queue=0))
        engine, texts = verifier.loop.engine, prompts(2)
        first = asyncio.create_task(collect(stream, request("a", texts[0], 300)))
        await until(lambda: engine.scheduler.in_service == 1, "the first runs")
        assert (await refusal(stream, request("b", texts[1], 5)))[0].__name__ == "Refused"
        config = VerifierConfig(max_sequences=1, max_queue=4, step_limit_s=7)
        verifier.loop.post(lambda engine: engine.reconfigure(config, TreeConfig()))
        assert await collect(stream, request("c", texts[1], 5)) == greedy(tiny("llama"), texts[1], 5)
        assert await first == greedy(tiny("llama"), texts[0], 300)
        assert verifier.loop.engine.scheduler.config.step_limit_s == 7
        await stream.close()
        await verifier.stop()

    run(test)


def test_new_sessions_have_the_new_limits_of_trees() -> None:
    async def test() -> None:
        drafter = RawDrafter()
        verifier, stream = await start_verifier()
        verifier.set_drafters([await drafter.start()])
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        for name, tree in (("a", TreeConfig()), ("b", TreeConfig(max_nodes=5, max_depth=2))):
            verifier.loop.post(lambda engine, tree=tree: engine.reconfigure(VerifierConfig(batch_table=((64, 7),)), tree))
            await collect(stream, request(name, prompts(1)[0], 20))
        await collect(stream, request("c", prompts(1)[0], 5, mode="table"))
        limits = {opened.session_id: (opened.max_nodes, opened.max_depth) for opened in drafter.messages("open")}
        assert limits == {"a": (256, 16), "b": (5, 2), "c": (7, 7)}
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(None)

    run(test)


def test_a_drafter_takes_more_sessions_while_it_drafts() -> None:
    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter", DrafterConfig(max_sessions=1))
        sampling = pb.Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0)
        rest = {"sampling": sampling, "noise_version": 1, "max_nodes": 8, "max_depth": 4, "vocab_size": 256, "tokens": [1, 2, 3]}
        async with grpc.aio.insecure_channel(route.address) as channel:
            call = rpc.DrafterStub(channel).Connect()  # type: ignore[no-untyped-call]

            async def answer(session: str, epoch: int) -> str:
                """The kind of message that answers an Open."""
                opening = pb.DrafterMessage(open=pb.Open(session_id=session, epoch=epoch, **rest))
                await call.write(pb.ToDrafter(verifier="raw", messages=[opening]))
                while True:
                    for message in (await call.read()).messages:
                        kind = message.WhichOneof("kind")
                        said = getattr(message, kind)
                        if (said.session_id, said.epoch) == (session, epoch) and kind in ("opened", "refused"):
                            return str(kind)

            assert [await answer("a", 1), await answer("b", 2)] == ["opened", "refused"]
            drafter.reconfigure(DrafterConfig(max_sessions=2, pass_limit_s=9), TreeConfig(width=3))
            assert [await answer("b", 3), await answer("c", 4)] == ["opened", "refused"]
            assert sorted(name for _, name in drafter.loop.engine.sessions) == ["a", "b"]
            assert (drafter.loop.limit_s, drafter.loop.engine.rules.width) == (9, 3)
            call.cancel()
        await drafter.stop()

    run(test)
