"""A verifier and its drafter as they serve, in virtual time: a run takes what a latency model says.

Promises: deterministic, and overlapped as on two devices: while a step runs, draft passes end and messages
travel, each through protobuf. Tokens, trees, calibration and policy are the engines' own. What the CPU itself
needs counts nowhere; so stages without a model are free here.
"""

import copy
from dataclasses import replace
from functools import partial
from typing import Protocol

from drafter.engine import DrafterEngine, Outgoing
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.policy.latency import LatencyModel
from drafthouse.wire.generation_messages import GenerateReply
from drafthouse.wire.session_messages import (
    ToDrafterMessage,
    ToVerifierMessage,
    from_drafter_proto,
    from_verifier_proto,
    to_drafter_proto,
    to_verifier_proto,
)
from drafthouse.wire.states import StatesWish
from simulator.pair import Pair
from simulator.virtual_time import Device, VirtualRunner, World
from verifier.engine import VerifierEngine
from verifier.step import Wait
from verifier.step_loop import run_step

TRIP_S = 0.0003
"""A message's way: half a round trip of the data plane (0.29 ms there and back) and the receiving thread's wake-up."""

DRAFTER, PEER = "drafter", "verifier"


class Drafting(Protocol):
    """What a `DrafterEngine` does; its passes take time on a `Device`."""

    @property
    def wish(self) -> StatesWish | None: ...

    def handle(self, peer: str, message: ToDrafterMessage) -> list[Outgoing]: ...

    def has_work(self) -> bool: ...

    def run_pass(self) -> list[Outgoing]: ...


class VirtualDrafter:
    """The drafter's thread: takes messages between passes, never during one. What it says has `arrived` a trip later."""

    def __init__(self, engine: Drafting, device: Device):
        self.arrived: list[tuple[float, ToVerifierMessage]] = []
        self._engine, self._device, self._world = engine, device, device.world
        self._inbox: list[ToDrafterMessage] = []
        self._busy = False

    def hear(self, messages: list[ToDrafterMessage]) -> None:
        self._inbox += messages
        if not self._busy:
            self._go()

    def _go(self) -> None:
        messages, self._inbox = self._inbox, []
        for message in messages:
            self._say(self._engine.handle(PEER, from_drafter_proto(to_drafter_proto(message))))
        if self._engine.has_work():
            self._busy = True
            out = self._engine.run_pass()
            self._world.after(self._device.take(), lambda: self._end(out))

    def _end(self, out: list[Outgoing]) -> None:
        self._busy = False
        self._say(out)
        self._go()

    def _say(self, out: list[Outgoing]) -> None:
        for _, message in out:
            self._world.after(TRIP_S, partial(self._arrive, from_verifier_proto(to_verifier_proto(message))))

    def _arrive(self, message: ToVerifierMessage) -> None:
        self.arrived.append((self._world.now, message))


class VirtualPair(Pair):
    """The verifier's thread, and a drafter TRIP_S away from it. `verifier` lives on the world's own clock, since nothing else happens
    to it while its device runs; `drafting` on that of its device."""

    def __init__(self, verifier: VerifierEngine, drafting: Drafting, device: Device):
        super().__init__(verifier, {DRAFTER: drafting.wish})
        self.world = device.world
        self._drafter = VirtualDrafter(drafting, device)

    def settle(self) -> None:
        """Until the drafter has heard all that is said, and is at rest if nothing is asked of it."""
        self._send()
        self.world.spend(1.0)

    def turn(self) -> list[GenerateReply]:
        """One step, or one wait for it."""
        self._send()
        self._receive()
        outcome = run_step(self.verifier, self._send, self._receive)
        if isinstance(outcome, Wait):
            self.world.wait(outcome.until)
        return outcome if isinstance(outcome, list) else []

    def _send(self) -> None:
        for messages in self.verifier.draft_sessions.take_outbox().values():
            self.world.after(TRIP_S, partial(self._drafter.hear, messages))

    def _receive(self) -> None:
        arrived, self._drafter.arrived = self._drafter.arrived, []
        for at, message in arrived:
            self.verifier.receive(DRAFTER, message, at)


class ModelPair(VirtualPair):
    """With real models. `config` says how both draft and verify; the latency models are not changed."""

    def __init__(
        self, target: LoadedModel, draft: LoadedModel, target_latency: LatencyModel, draft_latency: LatencyModel, config: ServingConfig
    ):
        world = World()
        device = Device(world)
        timed_target = replace(target, runner=VirtualRunner(target.runner, target_latency, world.spend))
        timed_draft = replace(draft, runner=VirtualRunner(draft.runner, draft_latency, device.spend))
        verifier = VerifierEngine(timed_target, copy.deepcopy(target_latency), config.verifier, config.tree, world.clock)
        self.drafter = DrafterEngine(timed_draft, copy.deepcopy(draft_latency), config.drafter, config.tree, device.clock)
        super().__init__(verifier, self.drafter, device)
