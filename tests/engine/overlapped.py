"""A verifier and its drafter in virtual time, overlapped as on two devices: drafts arrive while a step runs, and after its commit.

Promises: deterministic; the models are real ones. While a step runs the drafter makes `passes`: what all but the last bring is
taken in between the step's run and its commit, what the last brings comes after that, still below the old root.
"""

from collections import Counter
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from benchmarks.one_process import OneProcess
from drafthouse.config import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.generation_messages import GenerateReply
from drafthouse.policy.latency import Curve
from drafthouse.session_messages import Grow, ToVerifierMessage, from_verifier_proto, to_verifier_proto
from drafthouse.stages.build import placed
from tests.engine.pairs import FAST
from tests.engine.watched_drafter import WatchedDrafter
from verifier.engine import VerifierEngine

DEAR = Curve("dear", "a test: a node costs so much that some are not worth it before the next commit", 5.0, 0.2, 0.0)
PASS_S = 0.001


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TimedRunner(ModelRunner):
    """A run takes the curve's time on the clock."""

    def __init__(self, model: PreTrainedModel, cache: KvCache, curve: Curve, clock: Clock):
        super().__init__(model, cache)
        self.curve, self.clock = curve, clock

    def run(self, segments: list[Segment]) -> RunResult:
        seconds = self.curve.seconds(sum(map(len, segments)), 0)
        self.clock.now += seconds
        return RunResult(super().run(segments).logits, seconds)


def timed(model: LoadedModel, curve: Curve, clock: Clock) -> LoadedModel:
    return replace(model, runner=TimedRunner(model.runner.model, model.runner.cache, curve, clock))


class Overlapped(OneProcess):
    """`arrived`: nodes that came "during" steps, "late", when what they lay below was committed over, or while they were "waited for"."""

    def __init__(
        self, target: LoadedModel, draft: LoadedModel, config: DrafterConfig, tree: TreeConfig, curve: Curve = DEAR, passes: int = 3
    ):
        self.clock, self.passes = Clock(), passes
        self.drafter = WatchedDrafter(draft, FAST, config, tree, self.clock)
        stages = placed(config.stages, "verifier", None, target.runner.vocab_size)
        verifier = VerifierEngine(timed(target, curve, self.clock), curve, VerifierConfig(), tree, self.clock, stages)
        super().__init__(verifier, [self.drafter])
        self.arrived: Counter[str] = Counter()
        self._late: list[tuple[str, ToVerifierMessage]] = []

    def turn(self) -> list[GenerateReply]:
        self._deliver()
        outcome = self.verifier.step(self._during)
        late, self._late = self._late, []
        for name, message in late:
            self._hear(name, message, "late")
        self._deliver()
        if outcome.wait_until is not None:
            self.clock.now = self.clock.now + PASS_S if self.drafter.has_work() else outcome.wait_until
            self._pass("waited for")
        return outcome.replies

    def _during(self) -> None:
        for _ in range(self.passes - 1):
            self._pass("during")
        self._late = self._said()

    def _pass(self, when: str) -> None:
        for name, message in self._said():
            self._hear(name, message, when)

    def _said(self) -> list[tuple[str, ToVerifierMessage]]:
        [name] = self.drafters
        return [(name, from_verifier_proto(to_verifier_proto(message))) for _, message in self.drafter.run_pass()]

    def _hear(self, name: str, message: ToVerifierMessage, when: str) -> None:
        sequence = self.verifier.sequences.get(message.session)
        if isinstance(message, Grow) and sequence is not None and sequence.link is not None:
            late = message.base_len < sequence.link.base_len
            assert late == (when == "late")
            self.arrived[when] += len(message.nodes)
        self.verifier.receive(name, message)
