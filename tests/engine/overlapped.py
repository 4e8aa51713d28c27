"""A verifier and its drafter whose overlap is set, not timed: drafts arrive while a step runs, and after its commit, in every run.

Promises: what `simulator.one_process` does; deterministic; the models are real ones. While a step runs the drafter
makes `passes`, the first before it hears of the step. What they bring is taken in between the step's run and its commit, or comes
after that, still below the old root.
"""

from collections import Counter
from dataclasses import replace

from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.policy.latency import Curve
from drafthouse.stages.build import placed
from drafthouse.wire.generation_messages import GenerateReply
from drafthouse.wire.session_messages import Grow, ToVerifierMessage, from_verifier_proto, to_verifier_proto
from simulator.one_process import OneProcess
from simulator.virtual_time import VirtualRunner, World
from tests.engine.pairs import FAST
from tests.engine.watched_drafter import WatchedDrafter
from verifier.engine import VerifierEngine
from verifier.step import Wait
from verifier.step_loop import run_step

DEAR = Curve("dear", "a test: a node costs so much that some are not worth it before the next commit", 5.0, 0.2, 0.0)
PASS_S = 0.001
"""What the verifier loses with a pass that it waits for."""


class Overlapped(OneProcess):
    """`arrived`: nodes that came "during" steps, "late", when what they lay below was committed over, or while they were "waited for";
    `expanded_during`: those that the draft ran on in steps that its drafter had heard of."""

    def __init__(
        self, target: LoadedModel, draft: LoadedModel, config: DrafterConfig, tree: TreeConfig, curve: Curve = DEAR, passes: int = 3
    ):
        self.world, self.passes = World(), passes
        self.drafter = WatchedDrafter(draft, FAST, config, tree, self.world.clock)
        stages = placed(config.stages, "verifier", None, target.runner.vocab_size)
        timed = replace(target, runner=VirtualRunner(target.runner, curve, self.world.spend))
        super().__init__(VerifierEngine(timed, curve, VerifierConfig(), tree, self.world.clock, stages), [self.drafter])
        self.arrived: Counter[str] = Counter()
        self.expanded_during = 0
        self._under_way: list[ToVerifierMessage] = []

    def turn(self) -> list[GenerateReply]:
        self._deliver()
        outcome = run_step(self.verifier, self._begin, self._during)
        self._hear("late")
        self._deliver()
        if isinstance(outcome, Wait):
            self.world.advance(self.world.now + PASS_S if self.drafter.has_work() else outcome.until)
            self._pass()
            self._hear("waited for")
        return outcome if isinstance(outcome, list) else []

    def _begin(self) -> None:
        """A pass ends before the drafter hears that the step begins."""
        self._pass()
        self._deliver()

    def _during(self) -> None:
        """What is under way arrives before the last pass ends, but for every other step, when nothing does."""
        before = self._expanded()
        for _ in range(self.passes - 2):
            self._pass()
        if self.verifier.totals.steps % 2:
            self._hear("during")
        self._pass()
        if self.verifier.totals.steps:  # the first takes the prompts in
            self.expanded_during += self._expanded() - before

    def _expanded(self) -> int:
        return sum(len(session.expanded) for session in self.drafter.sessions.values())

    def _pass(self) -> None:
        self._under_way += [from_verifier_proto(to_verifier_proto(message)) for _, message in self.drafter.run_pass()]

    def _hear(self, when: str) -> None:
        messages, self._under_way = self._under_way, []
        [name] = self.drafters
        for message in messages:
            sequence = self.verifier.sequences.get(message.session_id)
            if isinstance(message, Grow) and sequence is not None and sequence.draft_session is not None:
                assert (message.base_len < sequence.draft_session.base_len) == (when == "late")
                self.arrived[when] += len(message.nodes)
            self.verifier.receive(name, message)
