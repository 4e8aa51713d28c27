"""Streams that end, move, say what cannot be read or come twice: each ends what belongs to it and nothing else."""

import asyncio
import socket
from dataclasses import replace

from deployments.gateway.request_progress import Refused
from drafthouse.config.serving import VerifierConfig
from drafthouse.errors import RequestError
from drafthouse.wire.session_messages import Close
from drafthouse.wire.transport import PLAINTEXT
from protos import dataplane_pb2 as pb
from tests.engine.oracle import greedy
from tests.engine.pairs import prompts, request
from tests.engine.servers import HOST, RawDrafter, connect, refusal, replies_of, run, start_drafter, start_routed, start_verifier, until
from tests.engine.tiny_models import tiny
from verifier.drafter_client import DrafterClient


def test_a_later_attempt_ends_the_older_stream_and_the_same_attempt_is_refused() -> None:
    """The older attempt waits half a second a token for a drafter that says nothing, so that it is still there."""

    async def test() -> None:
        drafter = RawDrafter()
        verifier, route = await start_routed("verifier")
        stream, other = await connect(route.address), await connect(route.address)
        engine = verifier.loop.engine
        verifier.set_drafters([await drafter.start()])
        await until(lambda: bool(engine.draft_sessions.drafters), "connected")
        first = request("a", prompts(1)[0], 400, mode="fixed")
        call = stream.start(first)
        delivered = tuple(token for reply in await call.read() for token in reply.tokens)
        assert await refusal(other, first) == (RequestError, "request a is running already, attempt 1")
        resumed = request("a", first.prompt, 40, mode="off", delivered=delivered)
        second = await replies_of(other, replace(resumed, attempt=2))
        last = (await call.read())[-1]
        assert (last.finish_reason, last.error) == ("error", "superseded by attempt 2")
        assert [*delivered, *(token for reply in second for token in reply.tokens)] == greedy(tiny("llama"), first.prompt, 40)
        await until(lambda: engine.scheduler.allocator.free_count == engine.scheduler.allocator.count, "KV freed")
        await stream.close()
        await other.close()
        await verifier.stop()
        await drafter.server.stop(grace=0)

    run(test)


def test_a_full_queue_is_resource_exhausted() -> None:
    async def test() -> None:
        drafter = RawDrafter()
        verifier, stream = await start_verifier(VerifierConfig(max_sequences=1, max_queue=1))
        verifier.set_drafters([await drafter.start()])
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        calls = [stream.start(request("a", [1, 2], 400, mode="fixed"))]
        await calls[0].read()
        calls.append(stream.start(request("b", [1, 2], 400, mode="off")))
        await until(lambda: len(verifier.loop.engine.sequences) == 2, "one runs, one waits")
        assert await refusal(stream, request("c", [1, 2], 5)) == (Refused, "1 requests wait already")
        for call in calls:
            stream.leave(call)
        await until(lambda: not verifier.loop.engine.sequences, "both are gone")
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(grace=0)

    run(test)


def test_a_drafter_that_moved_is_dialled_anew_and_one_that_is_gone_is_left() -> None:
    async def test() -> None:
        old, old_route = await start_drafter(0.01, "drafter")
        new, new_route = await start_drafter(0.01, "drafter")
        verifier, stream = await start_verifier()
        verifier.set_drafters([old_route])
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        call = stream.start(request("a", prompts(1)[0], 400, mode="fixed", nodes=6, depth=3))
        await until(lambda: len(old.loop.engine.sessions) == 1, "a session")
        verifier.set_drafters([new_route])
        await until(lambda: not old.loop.engine.sessions, "a session ends with its stream")
        await until(lambda: len(new.loop.engine.sessions) == 1, "a session on the new address")
        verifier.set_drafters([])
        await until(lambda: not new.loop.engine.sessions, "no session where no route leads")
        assert verifier.clients == {}
        stream.leave(call)
        await stream.close()
        await verifier.stop()
        await old.stop()
        await new.stop()

    run(test)


def test_an_unreadable_message_from_a_drafter_ends_its_session_only() -> None:
    async def test() -> None:
        drafter = RawDrafter()
        verifier, stream = await start_verifier()
        verifier.set_drafters([await drafter.start()])
        events = verifier.loop.engine.draft_sessions.events
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        calls = [stream.start(request(name, [1, 2, 3], 400, mode="fixed")) for name in "ab"]
        await until(lambda: len(drafter.messages("open")) == 2, "two sessions")
        epochs = {message.session_id: message.epoch for message in drafter.messages("open")}
        bad = pb.VerifierMessage(grow=pb.Grow(session_id="a", epoch=epochs["a"], tokens=[1, 2]))  # without parents
        good = pb.VerifierMessage(dropped=pb.Dropped(session_id="b", epoch=epochs["b"], reason="a test"))
        await drafter.say.put(pb.ToVerifier(drafter="raw", messages=[bad, good]))
        await until(lambda: (events.malformed, events.dropped) == (1, 1), "both were taken in")
        await until(lambda: "a" in {message.session_id for message in drafter.messages("close")}, "the broken session is closed")
        for call in calls:
            stream.leave(call)
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(grace=0)

    run(test)


def test_a_stream_that_ends_is_reported_and_dialled_anew() -> None:
    async def test() -> None:
        drafter, events = RawDrafter(), []
        connected, lost = (lambda *_: events.append("connected")), (lambda _: events.append("lost"))
        client = DrafterClient("raw", (await drafter.start()).address, "verifier", PLAINTEXT, connected, lost, *[lambda *_: None] * 2)
        await until(lambda: events == ["connected"], "a stream")
        await drafter.say.put(None)
        await until(lambda: events == ["connected", "lost", "connected"], "another")
        await client.close()
        assert events[3:] == ["lost"]
        await drafter.server.stop(grace=0)

    run(test)


def test_what_was_queued_without_a_stream_is_not_sent_on_the_next() -> None:
    """The sessions that it was about are gone: an Open would leave one that nobody closes."""

    async def test() -> None:
        drafter, connected = RawDrafter(), asyncio.Event()
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        client = DrafterClient("raw", f"{HOST}:{port}", "verifier", PLAINTEXT, lambda *_: connected.set(), *[lambda *_: None] * 3)
        client.send([Close("old", 1)])
        await drafter.start(port)
        await connected.wait()
        client.send([Close("new", 2)])
        await until(lambda: "new" in [message.session_id for message in drafter.messages("close")], "what was said on this stream")
        assert [message.session_id for message in drafter.messages("close")] == ["new"]
        await client.close()
        await drafter.server.stop(grace=0)

    run(test)


def test_what_is_said_after_a_stream_ended_goes_out_on_the_next() -> None:
    """Not on the ended one, whose sender is still there: half a beat after a message it waits for the next."""

    async def test() -> None:
        drafter, connected = RawDrafter(), 0

        def count(*_: object) -> None:
            nonlocal connected
            connected += 1
            client.send([Close(f"on-{connected}", connected)])

        client = DrafterClient("raw", (await drafter.start()).address, "verifier", PLAINTEXT, count, *[lambda *_: None] * 3)
        for stream in range(1, 4):
            await until(lambda: connected == stream, "a stream")  # noqa: B023
            heard = [f"on-{each}" for each in range(1, stream + 1)]
            await until(lambda: [message.session_id for message in drafter.messages("close")] == heard, f"all of {heard}", 5.0)  # noqa: B023
            await drafter.say.put(None)
        await client.close()
        await drafter.server.stop(grace=0)

    run(test)


def test_the_time_that_a_drafter_kept_a_probe_is_no_part_of_the_round_trip() -> None:
    async def test() -> None:
        drafter = RawDrafter(mute=True)
        client = DrafterClient("raw", (await drafter.start()).address, "verifier", PLAINTEXT, *[lambda *_: None] * 4)
        await until(lambda: bool(drafter.heard), "the first probe")
        await drafter.say.put(pb.ToVerifier(drafter="raw", echo_us=drafter.heard[0].echo_us, echo_delay_us=1_000_000_000))
        await until(lambda: client.round_trip_s is not None, "a round trip")
        assert client.round_trip_s is not None
        assert -1000 < client.round_trip_s < -900, "it says that it kept the probe for 1000 s"
        await client.close()
        await drafter.server.stop(grace=0)

    run(test)
