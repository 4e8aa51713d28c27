"""A verifier and its drafters in one process, taking turns: no network, no threads, no overlap.

The engines are those that the replicas run, and every message takes the way through protobuf;
only the transport is a function call. `simulator.virtual_pair` has the same with overlap.
"""

from drafter.engine import DrafterEngine
from drafthouse.wire.generation_messages import GenerateReply
from drafthouse.wire.session_messages import from_drafter_proto, from_verifier_proto, to_drafter_proto, to_verifier_proto
from simulator.pair import Pair
from verifier.engine import VerifierEngine
from verifier.step_loop import run_step

PEER = "verifier"


class OneProcess(Pair):
    def __init__(self, verifier: VerifierEngine, drafters: list[DrafterEngine]):
        self.drafters = {f"drafter-{i}": drafter for i, drafter in enumerate(drafters)}
        super().__init__(verifier, {name: drafter.wish for name, drafter in self.drafters.items()})

    def turn(self) -> list[GenerateReply]:
        """One verifier step if it is willing, and one pass of each drafter: none of them starves, as each has a device of its own when
        it serves, and a verifier that wants more waits for more."""
        self._deliver()
        outcome = run_step(self.verifier)
        self._deliver()
        for name, drafter in self.drafters.items():
            if drafter.has_work():
                self._receive(name, drafter)
        self._deliver()
        return outcome if isinstance(outcome, list) else []

    def _receive(self, name: str, drafter: DrafterEngine) -> None:
        for _, message in drafter.run_pass():
            self.verifier.receive(name, from_verifier_proto(to_verifier_proto(message)))

    def _deliver(self) -> None:
        for name, messages in self.verifier.draft_sessions.take_outbox().items():
            for message in messages:
                for _, answer in self.drafters[name].handle(PEER, from_drafter_proto(to_drafter_proto(message))):
                    self.verifier.receive(name, from_verifier_proto(to_verifier_proto(answer)))
