"""Verifier and drafter as they serve, with real models, in virtual time: a pass takes what a latency model says.

Promises: deterministic, and overlapped as on two devices: while a step runs, draft passes end and messages
travel. Tokens, trees, calibration and policy are the engines' own. What the CPU itself needs counts
nowhere; so stages without a model are free here.
"""

import copy
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from drafter.engine import DrafterEngine, Outgoing
from drafthouse.config.serving import ServingConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.policy.latency import LatencyModel
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import ToDrafterMessage, ToVerifierMessage
from verifier.engine import VerifierEngine

TRIP_S = 0.0003
"""A message's way: half a round trip of the data plane (docs/design.md 2: 0.29 ms there and back) and the receiving thread's wake-up."""

DRAFTER, PEER = "drafter", "verifier"


@dataclass
class World:
    """Virtual seconds, and what happens when."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = max(self.now, until)

    def next_event(self) -> float | None:
        return self._events[0][0] if self._events else None


class VirtualRunner(ModelRunner):
    """Computes what `runner` does, and has `spend` take the time of it."""

    def __init__(self, runner: ModelRunner, latency: LatencyModel, spend: Callable[[float], None]):
        super().__init__(runner.model, runner.cache, runner.compiled)
        self.latency, self.spend = latency, spend

    def run(self, segments: list[Segment]) -> RunResult:
        result = super().run(segments)
        seconds = self.latency.seconds(sum(map(len, segments)), sum(len(s.kv) for s in segments))
        self.spend(seconds)
        return RunResult(result.logits, seconds)


class VirtualDrafter:
    """The drafter's thread: takes messages between passes, never during one."""

    def __init__(self, world: World, draft: LoadedModel, latency: LatencyModel, config: ServingConfig):
        self.world = world
        self.arrived: list[tuple[float, ToVerifierMessage]] = []
        self._inbox: list[ToDrafterMessage] = []
        self._busy = False
        self._spent = 0.0  # of the pass that is being computed: its end is that far ahead of the world
        model = replace(draft, runner=VirtualRunner(draft.runner, latency, self._spend))
        own = copy.deepcopy(latency)
        self.engine = DrafterEngine(model, own, config.drafter, config.tree, clock=lambda: world.now + self._spent)

    def _spend(self, seconds: float) -> None:
        self._spent += seconds

    def hear(self, messages: list[ToDrafterMessage]) -> None:
        self._inbox += messages
        if not self._busy:
            self._go()

    def _go(self) -> None:
        messages, self._inbox = self._inbox, []
        for message in messages:
            self._say(self.engine.handle(PEER, message))
        if self.engine.has_work():
            self._busy = True
            out = self.engine.run_pass()
            seconds, self._spent = self._spent, 0.0
            self.world.after(seconds, lambda: self._end(out))

    def _end(self, out: list[Outgoing]) -> None:
        self._busy = False
        self._say(out)
        self._go()

    def _say(self, out: list[Outgoing]) -> None:
        for _, message in out:
            self.world.after(TRIP_S, lambda message=message: self.arrived.append((self.world.now, message)))  # type: ignore[misc]


class VirtualPair:
    """`config` says how both draft and verify; the latency models are not changed."""

    def __init__(
        self, target: LoadedModel, draft: LoadedModel, target_latency: LatencyModel, draft_latency: LatencyModel, config: ServingConfig
    ):
        self.world = World()
        runner = VirtualRunner(target.runner, target_latency, lambda seconds: self.world.advance(self.world.now + seconds))
        self.verifier = VerifierEngine(
            replace(target, runner=runner), copy.deepcopy(target_latency), config.verifier, config.tree, clock=lambda: self.world.now
        )
        self.drafter = VirtualDrafter(self.world, draft, draft_latency, config)
        self.verifier.draft_sessions.set_drafters([DRAFTER])

    def generate(self, request: GenerateRequest) -> tuple[list[int], float]:
        """Output tokens, and virtual seconds from the request to the last of them."""
        started, output = self.world.now, list[int]()
        self.verifier.submit(request)
        while request.request_id in self.verifier.sequences:
            output += [token for reply in self._turn() for token in reply.tokens]
        seconds = self.world.now - started
        self._flush()
        self.world.advance(self.world.now + 1.0)  # the drafter hears that the session has ended
        return output, seconds

    def _turn(self) -> list:
        self._flush()
        self._arrivals()
        outcome = self.verifier.step(self._arrivals, self._flush)
        if outcome.wait_until is not None:
            event = self.world.next_event()
            self.world.advance(min(outcome.wait_until, event if event is not None else outcome.wait_until))
        return outcome.replies

    def _flush(self) -> None:
        for messages in self.verifier.draft_sessions.take_outbox().values():
            self.world.after(TRIP_S, lambda messages=messages: self.drafter.hear(messages))  # type: ignore[misc]

    def _arrivals(self) -> None:
        arrived, self.drafter.arrived = self.drafter.arrived, []
        for at, message in arrived:
            self.verifier.receive(DRAFTER, message, at)
