"""One verifier replica: the verifier's own engine, scheduler, session rule and drafting on simulated time.

Promises: nothing but the device and the thread is restated. A step takes what the curve says, and
how many of the selected nodes the target accepts is what the trace says.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import simpy

from drafthouse.errors import OverloadError
from drafthouse.policy.latency import ScaledCurve
from drafthouse.wire.session_messages import Open, ToVerifierMessage
from simulator.draft_session import SimDraftSession
from simulator.draft_tree import DraftTree
from simulator.options import Options
from simulator.request import Request, SimSequence, SlotCount
from simulator.wire import Opening, after
from verifier.draft_sessions import DraftSessions
from verifier.engine import VerifierEngine
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence
from verifier.session_policy import SessionPolicy
from verifier.step import Walked

if TYPE_CHECKING:
    from simulator.drafter import SimDrafter


class SimDraftSessions(DraftSessions):
    def open(self, sequence: Sequence, price: float, now: float, probe: bool = False) -> bool:
        """As the original, with a tree of the simulator's on both ends."""
        if not super().open(sequence, price, now, probe):
            return False
        assert isinstance(sequence, SimSequence)
        assert sequence.draft_session is not None
        tree = DraftTree(sequence.sim.text)
        outbox = self._outbox[sequence.draft_session.drafter]
        outbox[-1] = cast(Any, Opening(cast(Open, outbox[-1]), tree, sequence.prompt_len))
        sequence.draft_session = SimDraftSession.of(sequence.draft_session, price, tree, sequence.output_len - 1)
        return True


@dataclass(frozen=True, slots=True)
class Step:
    """What is on the device; `kv_tokens` were cached when it began."""

    plan: StepPlan
    selected: Selected
    kv_tokens: int
    started: float
    run_s: float


class SimEngine(VerifierEngine):
    def __init__(self, env: simpy.Environment, options: Options):
        config = options.config
        self.slots = SlotCount(config.target.kv_tokens)
        runner = SimpleNamespace(cache=SimpleNamespace(allocator=self.slots), vocab_size=1)
        model = SimpleNamespace(runner=runner, context=config.target.kv_tokens, fingerprint="simulated")
        curve = ScaledCurve(options.target, options.time_scale)
        super().__init__(cast(Any, model), curve, config.verifier, config.tree, clock=lambda: env.now)
        self.draft_sessions = SimDraftSessions(config.verifier, config.tree, 1, "simulated")
        self.session_policy = SessionPolicy(self.draft_sessions, self.pricing)
        self.speculation = options.speculation
        self.sequence_steps = 0
        self.price_seconds = 0.0

    def begin(self, request: Request) -> None:
        """Raises OverloadError when the queue is full."""
        self.admission.take_place(resumed=False, now=self.clock())
        sequence = SimSequence(request, self.speculation, self.slots)
        self.scheduler.add(sequence)
        self.sequences[sequence.id] = sequence
        self.session_policy.arrived(sequence, self.clock())

    def start(self) -> Step | float | None:
        """The first half of `step`: what goes on the device, until when to wait, or None when there is nothing to do."""
        now = self.clock()
        plan = self.scheduler.plan()
        if not plan.decoding and not plan.prefilling:
            self._busy_since = None
            self.pricing.quote(1, 0, 0)
            return None
        kv_tokens = sum([len(s.kv) for s in plan.decoding]) + sum([len(s.kv) for s, _ in plan.prefilling])
        self.draft_sessions.decoding = len(plan.decoding)
        self.pricing.quote(len(plan.decoding), plan.prompt_tokens, kv_tokens)
        until = self._wait(plan, now)
        if until is not None:
            return until
        self.session_policy.begin_step(self.sequences.values(), plan.decoding, now)
        selected = self._select(plan, kv_tokens)
        self.draft_sessions.hold(plan.decoding)
        tokens = len(plan.decoding) + plan.prompt_tokens + selected.nodes
        return Step(plan, selected, kv_tokens, now, self.latency.seconds(tokens, kv_tokens + tokens))

    def finish(self, step: Step) -> list[Request]:
        """The second half; returns the requests that are over."""
        now, over = self.clock(), []
        walked = [*(self._walk(s, step.selected) for s in step.plan.decoding)]
        for s, count in step.plan.prefilling:
            _counted(s).extend(count)
            if not s.pending:
                walked.append(Walked(s, [0], 0, []))
        self._replies = []
        self._commit(walked, step.selected, now)
        self._account(step.plan, step.selected, len(walked), step.kv_tokens, step.run_s, step.started, now)
        self.sequence_steps += len(step.plan.decoding)
        self.price_seconds += self.pricing.price * (now - step.started)
        for w, reply in zip(walked, self._replies, strict=True):
            request = cast(SimSequence, w.sequence).sim
            if reply.first_token_index == 0:
                request.first_token_s = now
            if reply.finish_reason:
                request.finished_s = now
                over.append(request)
        return over

    def _walk(self, s: Sequence, selected: Selected) -> Walked:
        nodes = cast(list[int], selected.trees.get(s.id, ()))
        accepted = s.draft_session.tree.tree.accepted(nodes) if nodes and s.draft_session is not None else 0  # type: ignore[attr-defined]  # a TreeCopy
        _counted(s).extend(1 + accepted)
        return Walked(s, [0] * (accepted + 1), len(nodes), range(accepted))


def _counted(s: Sequence) -> Any:
    return s.kv


class SimVerifier:
    """The thread around the engine (`verifier/step_loop.py`) and the network around the thread."""

    def __init__(self, name: str, env: simpy.Environment, options: Options, finished: Callable[[Request], None]):
        self.name, self.env, self.options, self._finished = name, env, options, finished
        self.engine = SimEngine(env, options)
        self.refused = 0
        self.peers: Mapping[str, SimDrafter] = {}
        self._inbox: list[tuple[str, list[ToVerifierMessage], float]] = []
        self._wake: simpy.Event | None = None
        env.process(self._run())

    @property
    def load(self) -> int:
        return len(self.engine.scheduler.running) + len(self.engine.scheduler.waiting)

    def submit(self, request: Request) -> None:
        try:
            self.engine.begin(request)
        except OverloadError:
            self.refused += 1
            self._finished(request)
        self._awake()

    def receive(self, drafter: str, messages: list[ToVerifierMessage]) -> None:
        self._inbox.append((drafter, messages, self.env.now))
        self._awake()

    def _awake(self) -> None:
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake.succeed()

    def _asleep(self, until: float | None) -> simpy.Event:
        """Until something arrives, or the time has come."""
        self._wake = wake = self.env.event()
        if until is not None:
            after(self.env, max(0.0, until - self.env.now), lambda: self._awake() if self._wake is wake else None)
        return wake

    def _run(self) -> Generator[simpy.Event, Any, None]:
        overheads = self.options.overheads
        while True:
            self._take_arrivals()
            self._flush()
            step = self.engine.start()
            if not isinstance(step, Step):
                yield self._asleep(step)
                continue
            self._flush()
            yield self.env.timeout(step.run_s)
            self._take_arrivals()
            yield self.env.timeout(overheads.step_s + overheads.sequence_s * len(step.plan.decoding))
            for request in self.engine.finish(step):
                self._finished(request)

    def _take_arrivals(self) -> None:
        if self._inbox:
            batches, self._inbox = self._inbox, []
            for drafter, messages, arrived in batches:
                for message in messages:
                    self.engine.receive(drafter, message, arrived)

    def _flush(self) -> None:
        half_trip_s = self.options.round_trip_s / 2
        for name, messages in self.engine.draft_sessions.take_outbox().items():
            peer = self.peers[name]
            after(self.env, half_trip_s, partial(peer.receive, self, cast(Any, messages)))
