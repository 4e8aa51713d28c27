"""A verifier's engine without a model: every request gets one token of a known text each step, and steps begin at a set pace.

Promises: what stands around an engine (thread, server, streams) is the verifier's own. A step that comes late is not made up for.
"""

from collections.abc import Sequence

import torch

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.engine.tree_rows import tree_rows
from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.policy.latency import Curve
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage
from verifier.engine import VerifierEngine
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.step import Batch, Step, Wait

CURVE = Curve("scripted", "a benchmark: the pace is set, nothing is computed", 1.0, 1e-4, 0.0)
VOCAB_SIZE, CONTEXT = 1 << 20, 1 << 20
NOTHING = Step(StepPlan(), Selected(), Batch([], tree_rows([], [], []), []), 0.0)


class NoRunner(ModelRunner):
    """Has nothing to run."""

    def __init__(self) -> None:
        self.vocab_size = VOCAB_SIZE
        self.cache = KvCache(1, 1, 1, 1, torch.int8, torch.device("cpu"))

    def run(self, segments: Sequence[Segment]) -> RunResult:
        return RunResult(torch.zeros(0), 0.0)


class ScriptedEngine(VerifierEngine):
    def __init__(self, script: Sequence[int], step_s: float, streams: int):
        """`script`: the text's tokens, which repeat; `streams`: requests at once, at most."""
        config = VerifierConfig(max_sequences=streams, max_queue=0)
        super().__init__(LoadedModel(NoRunner(), CONTEXT, "scripted"), CURVE, config, TreeConfig())
        self._script, self._step_s = script, step_s
        self._due = 0.0
        self._served: dict[str, list[int]] = {}  # by request: attempt, tokens so far, max_tokens

    def submit(self, request: GenerateRequest, matcher: GrammarMatcher | None = None) -> None:
        self._served[request.request_id] = [request.attempt, len(request.delivered), request.max_tokens]

    def cancel(self, request_id: str, attempt: int, heard_at_step: int | None = None) -> None:
        served = self._served.get(request_id)
        if served is not None and served[0] == attempt:
            del self._served[request_id]

    def begin_step(self) -> Step | Wait | None:
        if not self._served:
            return None
        now = self.clock()
        if now < self._due:
            return Wait(self._due)
        self._due = max(self._due + self._step_s, now)
        return NOTHING

    def finish_step(self, step: Step, result: RunResult) -> list[GenerateReply]:
        replies = []
        for name, served in list(self._served.items()):
            attempt, done, most = served
            token = self._script[done % len(self._script)]
            served[1] = done = done + 1
            finish = "length" if done == most else ""
            if finish:
                del self._served[name]
            usage = SpeculationUsage(0, 0, 0, done)
            replies.append(GenerateReply(name, attempt, done - 1, (token,), finish, "", usage))
        return replies
