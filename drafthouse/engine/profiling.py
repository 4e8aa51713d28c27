"""Measures a runner's latency curve: seconds of a step by its number of tokens, and per cached token."""

import statistics

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.model_runner import ModelRunner
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.segment import Segment, chunk
from drafthouse.policy.latency import LatencyModel, MeasuredLatency

TOKEN_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
RUNS = 5
KV_TOKENS = 256


def latency_of(runner: ModelRunner, context: int) -> LatencyModel:
    """The curve that a paced runner is given; of any other a quick profile, a few hundred steps at most."""
    if isinstance(runner, PacedRunner):
        return runner.latency
    longest = min(context, runner.cache.allocator.free_count) // 2
    knots = {n: _median_seconds(runner, n, 0) for n in TOKEN_COUNTS if n <= longest}
    cached = min(KV_TOKENS, longest)
    slope = (_median_seconds(runner, 1, cached) - knots[1]) / cached
    return MeasuredLatency(knots, max(0.0, slope))


def _median_seconds(runner: ModelRunner, tokens: int, cached: int) -> float:
    """Median time of a step of `tokens`, all with logits, after `cached` entries."""
    kv = KvSequence(runner.cache)
    try:
        if cached:
            runner.run([chunk(kv, [0] * cached, 0, want_logits=True)])
        times = []
        for run in range(RUNS + 1):
            kv.extend(tokens)
            segment = Segment(kv, [0] * tokens, range(cached, cached + tokens), range(tokens))
            seconds = runner.run([segment]).seconds
            kv.truncate(cached)
            if run:  # the first one warms up
                times.append(seconds)
        return statistics.median(times)
    finally:
        kv.release()
