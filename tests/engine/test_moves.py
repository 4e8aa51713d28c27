"""Requests move to a verifier that comes late, over real gRPC and by the verifiers' own reports: texts stay, what was held is free."""

import asyncio
import time
from dataclasses import replace

from controller.routing_table import RoutingTable
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.segment import Segment
from drafthouse.policy.latency import Curve
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.membership import Route
from drafthouse.wire.reports import Replica
from tests.engine.oracle import greedy
from tests.engine.pairs import loaded, prompts, request
from tests.engine.servers import HOST, RawDrafter, run, start_routed, until
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine
from verifier.report import report_of
from verifier.server import VerifierServer

LOADED = Curve("loaded", "a test: a step takes longer with each text beside it, prompts next to nothing", 1.0, 0.001, 0.05)


def table(*verifiers: tuple[VerifierServer, Route]) -> tuple[Route, ...]:
    """As the controller makes it of what they report now."""
    known = RoutingTable()
    for server, route in verifiers:
        who = Replica(route.replica, route.address, 1, "n", route.fingerprint)
        known.put(report_of(server.loop.engine, who, draining=False, step_faults=0, round_trips={}))
    return known.verifiers()


async def text(link: VerifierLink, r: GenerateRequest, asked: list[str]) -> list[int]:
    tokens: list[int] = []
    async for replies in link.generate(r, asked):
        for reply in replies:
            assert reply.first_token_index == len(tokens)
            tokens += reply.tokens
    assert reply.finish_reason == "length", reply.error
    assert reply.usage.steps + reply.usage.accepted == len(tokens), "usage is of the whole request, each token once"
    return tokens


def free(server: VerifierServer) -> bool:
    allocator = server.loop.engine.scheduler.allocator
    return not server.loop.engine.sequences and allocator.free_count == allocator.count


def test_requests_that_wait_go_to_a_verifier_that_comes_late_in_fair_order() -> None:
    """Two run and four wait, three of them one client's; the late one has two places. What runs waits for a drafter that says nothing, so
    that it is still there."""

    async def test() -> None:
        silent, config = RawDrafter(), VerifierConfig(max_sequences=2)
        full = await start_routed("full", config)
        full[0].set_drafters([await silent.start()])
        await until(lambda: bool(full[0].loop.engine.draft_sessions.drafters), "connected")
        link = VerifierLink(10.0)
        link.update(table(full))
        names, texts = ["runs 0", "runs 1", "many 0", "many 1", "many 2", "few"], prompts(6)
        asked: dict[str, list[str]] = {name: [] for name in names}
        tokens = {name: 400 if name.startswith("runs") else 200 for name in names}  # of the others, one takes most of a client's turn
        tasks = {}
        for name, prompt in zip(names, texts, strict=True):
            r = request(name, prompt, tokens[name], mode="fixed" if name.startswith("runs") else "off")
            tasks[name] = asyncio.create_task(text(link, replace(r, cache_key=name.split()[0]), asked[name]))
            await until(lambda name=name: name in full[0].loop.engine.sequences, name)  # type: ignore[misc]
        await until(lambda: full[0].loop.engine.scheduler.held_up == 4, "four wait for places")
        late = await start_routed("late", config)
        link.update(table(full, late))
        await until(lambda: link.moves["room"] == 2, "as many as there are places for go")
        assert full[0].loop.engine.totals.returned == 2
        full[0].set_drafters([])
        for name, prompt in zip(names, texts, strict=True):
            assert await tasks[name] == greedy(tiny("llama"), prompt, tokens[name]), name
        assert {name for name in names if asked[name] == ["full", "late"]} == {"many 0", "few"}
        assert sum(map(len, asked.values())) == len(names) + 2, "no other has moved"
        assert link.failovers == 0
        await until(lambda: free(full[0]) and free(late[0]), "KV freed")
        await link.close()
        for server, _ in (full, late):
            await server.stop()
        await silent.server.stop(grace=0)

    run(test)


def test_streams_spread_to_a_verifier_that_comes_late_and_their_texts_stay() -> None:
    async def start(name: str) -> tuple[VerifierServer, Route]:
        model = loaded(tiny("llama"))
        run = model.runner.run

        def slow(segments: list[Segment]) -> RunResult:  # the texts must not end before the tables are there
            time.sleep(0.01)
            return run(segments)

        model.runner.run = slow  # type: ignore[method-assign]
        server = VerifierServer(VerifierEngine(model, LOADED, VerifierConfig(max_sequences=8), TreeConfig()), name)
        return server, Route(name, f"{HOST}:{await server.start(HOST, 0)}", "f", 0, 64)

    async def test() -> None:
        full, late = await start("full"), await start("late")
        link = VerifierLink(10.0)
        link.update(table(full))
        texts = prompts(4)
        asked: list[list[str]] = [[] for _ in texts]
        tasks = [asyncio.create_task(text(link, request(str(i), p, 400, mode="off"), asked[i])) for i, p in enumerate(texts)]
        await until(lambda: full[0].loop.engine.scheduler.in_service == 4, "four run")

        def spread() -> bool:
            link.update(table(full, late), interval_s=0.1)
            return link.moves["spread"] > 0

        await until(spread, "some of the four have moved")
        oracle = tiny("llama")
        for i, task in enumerate(tasks):
            assert await task == greedy(oracle, texts[i], 400), f"prompt {i}"
        moved = link.moves["spread"]
        assert sorted(map(len, asked)) == [1] * (4 - moved) + [2] * moved
        assert 1 <= moved <= 2, "never past the mean"
        assert link.failovers == 0
        assert (full[0].loop.engine.totals.finished, late[0].loop.engine.totals.finished) == (4 - moved, moved)
        assert full[0].loop.engine.totals.cancelled == moved
        assert full[0].loop.engine.admission.most_steps_to_free <= 1
        await until(lambda: free(full[0]) and free(late[0]), "KV freed")
        await link.close()
        for server, _ in (full, late):
            await server.stop()

    run(test)
