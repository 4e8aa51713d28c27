"""Device `paced`: tokens from the real small model, time from the curve of a large one (docs/design.md 7).

Promises: a step never returns before the curve's time; one that the CPU could not compute in
time counts as an overrun, and a run with more than 1 % of them is void.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from drafthouse.engine.forward import Forward
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.policy.latency import Curve, ScaledCurve

_TIMER_SLACK_S = 0.0002
"""The kernel wakes sleepers late by about so much; the rest is waited for awake."""


class PacedRunner(ModelRunner):
    def __init__(self, forward: Forward, cache: KvCache, curve: Curve, time_scale: float):
        super().__init__(forward, cache)
        self.latency = ScaledCurve(curve, time_scale)
        self.steps = 0
        self.overruns = 0

    def run(self, segments: Sequence[Segment]) -> RunResult:
        started = time.perf_counter()
        result = super().run(segments)
        tokens = sum(len(s) for s in segments)
        kv_tokens = sum(len(s.kv) for s in segments)
        deadline = started + self.latency.seconds(tokens, kv_tokens)
        self.steps += 1
        self.overruns += time.perf_counter() > deadline
        while (left := deadline - time.perf_counter()) > 0:
            time.sleep(max(0.0, left - _TIMER_SLACK_S))
        return replace(result, seconds=time.perf_counter() - started)
