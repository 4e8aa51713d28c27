"""One verifier replica: the verifier's own engine, scheduler, session policy and sessions on simulated time.

Promises: nothing but the device and the thread is restated. A step takes what the curve says, and
how many of the selected nodes the target accepts is what the trace says.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simpy
import torch

from drafthouse.engine.model_runner import RunResult
from drafthouse.engine.tree_rows import tree_rows
from drafthouse.errors import OverloadError
from drafthouse.grammars.compiler import no_tokenizer
from drafthouse.policy.latency import ScaledCurve
from drafthouse.wire.generation_messages import GenerateReply
from drafthouse.wire.session_messages import ToVerifierMessage
from simulator.draft_session import SimDraftSessions, TreeCopy
from simulator.mix import EQUAL, SERVED
from simulator.options import Options
from simulator.request import CountedKv, Request, SimSequence, SlotCount
from simulator.wire import after
from verifier.engine import VerifierEngine
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.step import Batch, Step, Wait, Walked, Walks
from verifier.verification import Verification

if TYPE_CHECKING:
    from simulator.drafter import SimDrafter

NO_LOGITS = torch.empty(0, 0)
NO_NUMBERS = np.zeros(0, dtype=np.int64)
NO_ROWS = tree_rows([], [], [])


@dataclass(frozen=True, slots=True)
class TracedBatch(Batch):
    """Runs nothing. `accepted`: by a sequence's place in the plan, how many of its selected nodes are on the committed text's path."""

    accepted: Mapping[int, int] = field(default_factory=dict)


class TracedVerification(Verification):
    """Runs nothing; what is accepted is on the committed text's path. Tokens are 0, and trees stay with their sessions."""

    def prepare(self, plan: StepPlan, selected: Selected) -> TracedBatch:
        """Resolves the nodes now: trees grow during the run, and with them the numbers of all nodes that come behind."""
        trees = cast(dict[int, tuple[TreeCopy, list[int]]], selected.by_place())
        accepted = {place: copy.tree.accepted([copy.alive[node] for node in nodes]) for place, (copy, nodes) in trees.items()}
        return TracedBatch([], NO_ROWS, [], accepted=accepted)

    def choose(self, step: Step, logits: torch.Tensor) -> np.ndarray:
        return NO_NUMBERS

    def walk(self, step: Step, choices: np.ndarray) -> Walks:
        walked, by_place = [], cast(TracedBatch, step.batch).accepted
        for place, s in enumerate(step.plan.decoding):
            accepted = by_place.get(place, 0) if s.draft_session is not None else 0
            cast(CountedKv, s.kv).extend(1 + accepted)
            walked.append(Walked(s, [0] * (accepted + 1), 0, accepted, accepted))
        for s, count in step.plan.prefilling:
            cast(CountedKv, s.kv).extend(count)
            if not s.pending:
                walked.append(Walked(s, [0]))
        return Walks(walked)


class SimVerifier:
    """The thread around the engine (`verifier/step_loop.py`) and the network around the thread.

    `sequence_steps` counts the sequences that decoded, over all steps; `price_seconds` is the price of a node times the steps' seconds.
    """

    def __init__(self, name: str, env: simpy.Environment, options: Options, finished: Callable[[Request], None], target: int = 0):
        self.name, self.env, self.options, self._finished = name, env, options, finished
        config = options.config
        self.target = target
        self.slots = SlotCount(config.target.kv_tokens)
        runner = SimpleNamespace(cache=SimpleNamespace(allocator=self.slots), vocab_size=1)
        model = SimpleNamespace(
            runner=runner,
            context=config.target.kv_tokens,
            fingerprint="simulated",
            vocabulary="",
            tokenizer=no_tokenizer,
            head_ids=None,
        )
        self.engine = VerifierEngine(
            cast(Any, model), ScaledCurve(options.target_curve(target), options.time_scale), config.verifier, config.tree,
            clock=lambda: env.now, draft_sessions=SimDraftSessions, verification=TracedVerification,
        )  # fmt: skip
        self.refused = self._arranged_at = 0
        self.sequence_steps, self.price_seconds = 0, 0.0
        self.peers: Mapping[str, SimDrafter] = {}
        self._requests: dict[str, Request] = {}
        self._inbox: list[tuple[str, list[ToVerifierMessage], float]] = []
        self._wake: simpy.Event | None = None
        env.process(self._run())

    @property
    def load(self) -> int:
        return len(self.engine.scheduler.running) + len(self.engine.scheduler.waiting)

    def submit(self, request: Request) -> None:
        try:
            self.engine.admission.take_place(resumed=False, now=self.env.now)
            weighed = self.options.mix.policy not in (SERVED, EQUAL)
            self.engine.enter(SimSequence(request, self.options.speculation, self.slots, weighed))
            self._requests[request.name] = request
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

    def _asleep(self, wait: Wait | None) -> simpy.Event:
        """Until something arrives, or the time has come."""
        self._wake = wake = self.env.event()
        if wait is not None:
            after(self.env, max(0.0, wait.until - self.env.now), lambda: self._awake() if self._wake is wake else None)
        return wake

    def _run(self) -> Generator[simpy.Event, Any, None]:
        overheads = self.options.overheads
        while True:
            self._take_arrivals()
            self._rearrange()
            self._flush()
            step = self.engine.begin_step()
            if not isinstance(step, Step):
                yield self._asleep(step)
                continue
            started, run_s = self.env.now, self.engine.latency.seconds(step.tokens, step.plan.kv_tokens + step.tokens)
            self._flush()
            yield self.env.timeout(run_s)
            self._take_arrivals()
            yield self.env.timeout(overheads.step_s + overheads.sequence_s * len(step.plan.decoding))
            replies = self.engine.finish_step(step, RunResult(NO_LOGITS, run_s))
            self.sequence_steps += len(step.plan.decoding)
            self.price_seconds += self.engine.pricing.price * (self.env.now - started)
            self._deliver(replies)

    @property
    def draft_sessions(self) -> SimDraftSessions:
        return cast(SimDraftSessions, self.engine.draft_sessions)

    def _rearrange(self) -> None:
        """Which sequences draft, by what tokens are worth now; once a step."""
        if self._arranged_at == self.engine.totals.steps or self.options.mix.policy == SERVED:
            return
        self._arranged_at = self.engine.totals.steps
        self.engine.worths.begin_step(self.env.now, self.engine.scheduler.config.step_tokens)
        self.draft_sessions.rearrange(self.engine.sequences.values())

    def _deliver(self, replies: list[GenerateReply]) -> None:
        for reply in replies:
            request = self._requests[reply.request_id]
            if reply.first_token_index == 0:
                request.first_token_s = self.env.now
            if reply.finish_reason:
                request.finished_s = self.env.now
                del self._requests[reply.request_id]
                self._finished(request)

    def _take_arrivals(self) -> None:
        if self._inbox:
            batches, self._inbox = self._inbox, []
            for drafter, messages, arrived in batches:
                for message in messages:
                    self.engine.receive(drafter, message, arrived)

    def _flush(self) -> None:
        for name, messages in self.engine.draft_sessions.take_outbox().items():
            peer = self.peers[name]
            after(self.env, peer.round_trip_s / 2, partial(peer.receive, self, cast(Any, messages)))
