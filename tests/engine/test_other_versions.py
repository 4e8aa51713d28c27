"""A verifier and a drafter whose wires differ by fields and messages, as in a rolling upgrade: texts stay, and drafting goes on.

What the older one lacks is taken out of the real schema, so that its messages are what protobuf makes of them there.
"""

import asyncio
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from deployments.gateway.verifier_stream import VerifierStream
from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.errors import WireError
from drafthouse.sampling import SamplingParams
from drafthouse.wire.dialect import LEAST_TOP_P, OURS, WIRE_METADATA, Dialect, said_in
from drafthouse.wire.session_messages import from_drafter_proto, from_verifier_proto, to_drafter_proto, to_verifier_proto
from drafthouse.wire.states import STATES_METADATA
from drafthouse.wire.transport import PLAINTEXT
from protos import dataplane_pb2 as pb
from protos import dataplane_pb2_grpc as rpc
from simulator.one_process import PEER, OneProcess
from tests.engine.hidden_drafts import reader
from tests.engine.oracle import greedy, sampled
from tests.engine.pairs import FAST, FLAT, loaded, noisy_copy, prompts, request
from tests.engine.servers import HOST, RawDrafter, collect, connect, run, start_drafter, start_routed, start_verifier, until
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine
from verifier.server import VerifierServer

M = TypeVar("M", bound=Message)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)


class OlderWire:
    """The data plane without some `Message.field`. A oneof's field takes its message along."""

    def __init__(self, lacks: list[str]):
        file = descriptor_pb2.FileDescriptorProto()
        pb.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            kept = [field for field in message.field if f"{message.name}.{field.name}" not in lacks]
            assert len(message.field) - len(kept) == sum(name.startswith(f"{message.name}.") for name in lacks), "no such field"
            del message.field[:]
            message.field.extend(kept)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        self._pool, self._package = pool, file.package

    def through(self, message: M) -> M:
        """What is left of it after a peer of this wire has written or read it."""
        name = type(message).DESCRIPTOR.full_name
        older = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))()
        older.ParseFromString(message.SerializeToString())
        older.DiscardUnknownFields()
        return type(message).FromString(older.SerializeToString())


class Upgrading(OneProcess):
    """Messages of either side pass through the older wire: which of the two is the older one makes no difference to what arrives.
    `unread` counts those that do, without what they are about, and are left aside as the servers do."""

    def __init__(self, verifier: VerifierEngine, drafter: DrafterEngine, wire: OlderWire):
        super().__init__(verifier, [drafter])
        self.wire, self.unread = wire, 0

    def _receive(self, name: str, drafter: DrafterEngine) -> None:
        for _, message in drafter.run_pass():
            self._heard(name, self.wire.through(to_verifier_proto(message)))

    def _deliver(self) -> None:
        for name, messages in self.verifier.draft_sessions.take_outbox().items():
            for message in messages:
                try:
                    read = from_drafter_proto(self.wire.through(to_drafter_proto(message)))
                except WireError:
                    self.unread += 1
                    continue
                for _, answer in self.drafters[name].handle(PEER, read):
                    self._heard(name, self.wire.through(to_verifier_proto(answer)))

    def _heard(self, name: str, proto: pb.VerifierMessage) -> None:
        try:
            message = from_verifier_proto(proto)
        except WireError:
            self.unread += 1
            return
        self.verifier.receive(name, message)


@pytest.mark.parametrize(
    ("lacks", "unread"),
    [
        (["Open.cache_key", "Open.vocabulary", "Open.width", "Close.finished"], False),
        (["Grow.next_pass_expected_tokens", "Refused.scope", "Dropped.scope"], False),
        (["DrafterMessage.hold"], True),
        (["VerifierMessage.opened"], True),
        (["Commit.states"], False),
        (["Open.states_to_come"], False),
    ],
)
def test_texts_and_drafts_with_a_peer_that_lacks_fields_or_a_message(lacks: list[str], unread: bool) -> None:
    tree = TreeConfig(grow_during_verification=False)  # so that Hold is sent
    verifier = VerifierEngine(loaded(tiny("llama")), FLAT, VerifierConfig(), tree)
    states = any("states" in field for field in lacks)
    drafter = DrafterEngine(reader(0.01) if states else loaded(noisy_copy("llama", 0, 0.02)), FAST, DrafterConfig(), tree)
    both = Upgrading(verifier, drafter, OlderWire(lacks))
    texts = prompts(4)
    modes = ["auto", "fixed", "table", "off"]
    got = both.generate([request(mode, text, 30, SAMPLED, i, mode) for i, (mode, text) in enumerate(zip(modes, texts, strict=True))])
    for i, (mode, text) in enumerate(zip(modes, texts, strict=True)):
        assert got[mode] == sampled(tiny("llama"), text, SAMPLED, i, 30), mode
    assert verifier.totals.accepted > 10
    assert (both.unread > 0) == unread
    assert (drafter.totals.state_bytes > 0) == (states and "Commit.states" not in lacks)
    assert not drafter.sessions


TREE = TreeConfig(grow_during_verification=False)


async def _beside(drafter: RawDrafter) -> tuple[VerifierServer, VerifierStream]:
    """A verifier that would send Hold, and knows this drafter."""
    verifier = VerifierServer(VerifierEngine(loaded(tiny("llama")), FLAT, VerifierConfig(), TREE), "verifier")
    port = await verifier.start(HOST, 0)
    verifier.set_drafters([await drafter.start()])
    return verifier, await connect(f"{HOST}:{port}")


async def _drafted(verifier: VerifierServer, stream: VerifierStream, drafter: RawDrafter) -> list[int]:
    """The text of a request for which the stub has drafted a wrong node, and has said something that no one knows."""
    engine = verifier.loop.engine
    await until(lambda: bool(engine.draft_sessions.drafters), "connected")
    text = asyncio.create_task(collect(stream, request("a", prompts(1)[0], 60)))
    await until(lambda: bool(drafter.messages("open")), "a session")
    opened = drafter.messages("open")[0]
    node = pb.Grow(session_id="a", epoch=opened.epoch, base_len=len(opened.tokens), tokens=[1], parents=[-1], edges=[0.9], sources=[0])
    await drafter.say.put(pb.ToVerifier(drafter="raw", messages=[pb.VerifierMessage(), pb.VerifierMessage(grow=node)]))
    return await text


@pytest.mark.parametrize(("says", "holds"), [(Dialect(1, 1, frozenset()).metadata(), False), ((), True), (OURS.metadata(), True)])
def test_a_drafter_is_sent_no_message_that_it_does_not_know(says: tuple[tuple[str, str], ...], holds: bool) -> None:
    """One that says nothing is from before it was said, when Hold was known. What the verifier does not know is counted and left aside."""

    async def test() -> None:
        drafter = RawDrafter(says=says)
        verifier, stream = await _beside(drafter)
        assert await _drafted(verifier, stream, drafter) == greedy(tiny("llama"), prompts(1)[0], 60)
        await until(lambda: bool(drafter.messages("close")), "closed")
        assert bool(drafter.messages("hold")) == holds
        events = verifier.loop.engine.draft_sessions.events
        assert (events.unknown, events.malformed) == (1, 0)
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(None)

    run(test)


@pytest.mark.parametrize(
    ("says", "rows"),
    [
        ((*OURS.metadata(), (STATES_METADATA, "64 4")), 4),
        ((*OURS.metadata(), (STATES_METADATA, "64")), 0),
        ((*OURS.metadata(), (STATES_METADATA, "32 4")), 0),
        ((*Dialect(1, 1, frozenset()).metadata(), (STATES_METADATA, "64 4")), 0),
        (OURS.metadata(), 0),
    ],
)
def test_a_drafter_is_sent_the_states_that_it_asks_for_in_a_form_that_both_know(says: tuple[tuple[str, str], ...], rows: int) -> None:
    async def test() -> None:
        drafter = RawDrafter(says=says)
        verifier, stream = await _beside(drafter)
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        assert await collect(stream, request("a", prompts(1)[0], 20)) == greedy(tiny("llama"), prompts(1)[0], 20)
        await until(lambda: bool(drafter.messages("close")), "closed")
        [opened], commits = drafter.messages("open"), drafter.messages("commit")
        assert opened.states_to_come == max(0, rows - 1)
        assert [len(commit.states) for commit in commits[:3]] == ([rows * 128, 128, 128] if rows else [0, 0, 0])
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(None)

    run(test)


def test_a_drafter_without_a_common_version_is_not_used_and_the_reason_reported() -> None:
    async def test() -> None:
        drafter = RawDrafter(says=((WIRE_METADATA, "5-6"),))
        verifier, stream = await _beside(drafter)
        client = verifier.clients["raw"]
        await until(lambda: bool(client.incompatible), "a reason")
        assert "the drafter speaks versions 5 to 6" in client.incompatible
        assert await collect(stream, request("a", prompts(1)[0], 20)) == greedy(tiny("llama"), prompts(1)[0], 20)
        assert not verifier.loop.engine.draft_sessions.drafters
        assert not drafter.messages("open")
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(None)

    run(test)


async def _refused(connect_to: Any, metadata: tuple[tuple[str, str], ...]) -> tuple[grpc.StatusCode, str]:
    call = connect_to(metadata=metadata)
    await call.initial_metadata()
    return await call.code(), await call.details()


def test_gateways_and_verifiers_that_are_too_new_are_told_so_and_older_ones_are_served() -> None:
    async def test() -> None:
        foreign, first = ((WIRE_METADATA, "8-9"),), Dialect(1, 1, frozenset()).metadata()
        drafter, drafter_route = await start_drafter(0.01, "drafter")
        verifier, verifier_route = await start_routed("verifier")
        for address, stub, batch in (
            (drafter_route.address, rpc.DrafterStub, pb.ToDrafter(verifier="raw", echo_us=1)),
            (verifier_route.address, rpc.VerifierStub, pb.FromGateway()),
        ):
            async with grpc.aio.insecure_channel(address) as channel:
                code, details = await _refused(stub(channel).Connect, foreign)
                assert code is grpc.StatusCode.FAILED_PRECONDITION
                assert "speaks versions 8 to 9" in details
                for metadata in (first, ()):
                    call = stub(channel).Connect(metadata=metadata)
                    await call.write(batch)
                    assert said_in(await call.initial_metadata()) == OURS
                    await call.read()
                    call.cancel()
        stream = VerifierStream(PLAINTEXT.channel(verifier_route.address), lambda _: None)
        await stream.open()
        assert stream.peer == OURS
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)


def test_a_drafter_of_before_is_sent_a_top_p_that_it_takes() -> None:
    async def test() -> None:
        drafter = RawDrafter()
        verifier, stream = await start_verifier()
        verifier.set_drafters([await drafter.start()])
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        await collect(stream, request("a", prompts(1)[0], 5, SamplingParams(0.8, top_p=0.0)))
        assert [opened.sampling.top_p for opened in drafter.messages("open")] == [LEAST_TOP_P]
        await stream.close()
        await verifier.stop()
        await drafter.server.stop(None)

    run(test)
