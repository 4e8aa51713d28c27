"""A verifier and a drafter whose wires differ by fields and messages, as in a rolling upgrade: texts stay, and drafting goes on.

What the older one lacks is taken out of the real schema, so that its messages are what protobuf makes of them there.
"""

from typing import TypeVar

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.errors import WireError
from drafthouse.sampling import SamplingParams
from drafthouse.wire.session_messages import from_drafter_proto, from_verifier_proto, to_drafter_proto, to_verifier_proto
from protos import dataplane_pb2 as pb
from simulator.one_process import PEER, OneProcess
from tests.engine.oracle import sampled
from tests.engine.pairs import FAST, FLAT, loaded, noisy_copy, prompts, request
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine

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
    ],
)
def test_texts_and_drafts_with_a_peer_that_lacks_fields_or_a_message(lacks: list[str], unread: bool) -> None:
    tree = TreeConfig(grow_during_verification=False)  # so that Hold is sent
    verifier = VerifierEngine(loaded(tiny("llama")), FLAT, VerifierConfig(), tree)
    drafter = DrafterEngine(loaded(noisy_copy("llama", 0, 0.02)), FAST, DrafterConfig(), tree)
    both = Upgrading(verifier, drafter, OlderWire(lacks))
    texts = prompts(4)
    modes = ["auto", "fixed", "table", "off"]
    got = both.generate([request(mode, text, 30, SAMPLED, i, mode) for i, (mode, text) in enumerate(zip(modes, texts, strict=True))])
    for i, (mode, text) in enumerate(zip(modes, texts, strict=True)):
        assert got[mode] == sampled(tiny("llama"), text, SAMPLED, i, 30), mode
    assert verifier.totals.accepted > 10
    assert (both.unread > 0) == unread
    assert not drafter.sessions
