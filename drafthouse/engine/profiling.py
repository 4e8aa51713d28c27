"""Measures a runner's latency curve: seconds of a step by its number of tokens, and per cached token.

Promises: every count up to `DENSE` is measured, so that steps of kernels and graph buckets at small
counts stay; larger ones as far as the effort's budget goes. All points are timed in turn, round by
round, so that a machine that gets busier meanwhile bends the curve nowhere. What the model is judged
by (`fit_error`) was not used to fit it.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.latency_cache import LatencyCache, Profile, key_of
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.segment import Segment, causal
from drafthouse.policy.latency import LatencyModel, MeasuredLatency, fit_error

DENSE = 16
"""Every token count up to here is a knot."""

EDGES = 64
"""Up to here the count after each knot is a knot too: kernels' tiles and graph buckets end at round numbers."""

KV_TOKENS = 1024
"""Cached tokens for the slope, or what there is room for."""


@dataclass(frozen=True)
class Effort:
    """At most so many rounds over all points, and about so many seconds of timed steps, an equal share for each point."""

    rounds: int
    budget_s: float


AT_START = Effort(rounds=7, budget_s=2.0)
THOROUGH = Effort(rounds=25, budget_s=60.0)


@dataclass(frozen=True)
class Point:
    """A step to be timed: new tokens over cached ones."""

    tokens: int
    cached: int = 0


def latency_of(model: LoadedModel, largest: int) -> LatencyModel:
    """The curve that a paced runner is given; of any other the cached profile, or a quick one of up to `largest` tokens."""
    if isinstance(model.runner, PacedRunner):
        return model.runner.latency
    cache, key = LatencyCache(), key_of(model, largest)
    profile = cache.read(key)
    if profile is None:
        profile = measure(model, largest, AT_START)
        cache.write(key, profile)
    return profile.latency()


def measure(model: LoadedModel, largest: int, effort: Effort, progress: Callable[[float], None] = lambda share: None) -> Profile:
    """Times steps of 1 to `largest` tokens, as far as KV slots are free; `progress` gets the share done, up to 1."""
    free = model.runner.cache.allocator.free_count
    cached = min(KV_TOKENS, free // 2, max(model.context // 2, model.context - DENSE))
    few = [n for n in range(1, DENSE + 1) if n <= min(largest, free)]
    many = [n for n in knot_counts(largest) if DENSE < n <= free]
    knots = [Point(n) for n in few + many]
    sloped = [Point(n, c) for n in {few[0], few[len(few) // 2], few[-1]} for c in (cached // 2, cached)]
    held_out = [Point(n, c) for n in {few[len(few) // 4], few[3 * len(few) // 4]} for c in (cached // 4, 3 * cached // 4)]
    between = [Point((a + b) // 2) for a, b in zip(many, many[1:], strict=False) if b - a > 1]
    needed = knots[: len(few)] + sloped + held_out
    times = _time(Stopwatch(model), needed, [*reversed(knots[len(few) :]), *between], effort, progress)
    flat = {p.tokens: times[p] for p in knots if p in times}
    slope = kv_slope(flat, [(p.tokens, p.cached, times[p]) for p in sloped])
    error = fit_error(MeasuredLatency(flat, slope), [(p.tokens, p.cached, times[p]) for p in held_out + between if p in times])
    return Profile(knots=tuple(flat.items()), per_kv_token=slope, fit_error=error)


def knot_counts(largest: int) -> list[int]:
    """Ascending: all up to `DENSE`, then two for each octave up to `largest`, with their edges up to `EDGES`."""
    counts, n = {*range(1, min(DENSE, largest) + 1), largest}, DENSE
    while n <= largest:
        counts |= {n, n * 3 // 2}
        counts |= {n + 1, n * 3 // 2 + 1} if n <= EDGES else set()
        n *= 2
    return sorted(n for n in counts if n <= largest)


def kv_slope(knots: dict[int, float], timings: Iterable[tuple[int, int, float]]) -> float:
    """Least squares through the knots: seconds for each cached token, from (tokens at a knot, cached, seconds); never below 0."""
    timings = list(timings)
    squares = sum(cached**2 for _, cached, _ in timings)
    return max(0.0, sum(cached * (seconds - knots[tokens]) for tokens, cached, seconds in timings) / squares)


def _time(
    stopwatch: "Stopwatch", needed: Sequence[Point], wanted: Sequence[Point], effort: Effort, progress: Callable[[float], None]
) -> dict[Point, float]:
    """Median seconds by point: of all that are needed, and of those wanted that the budget allows."""
    samples: dict[Point, list[float]] = {}
    for point in [*needed, *wanted]:
        spent = sum(seconds for (seconds,) in samples.values())
        if point in needed or spent + _guess(samples, point) <= effort.budget_s:
            samples[point] = [stopwatch.warm_seconds(point)]
            progress(len(samples) / (len(needed) + len(wanted)) / effort.rounds)
    for number in range(1, effort.rounds):
        for point, seconds in samples.items():
            if sum(seconds) <= effort.budget_s / len(samples):
                seconds.append(stopwatch.warm_seconds(point) if point.tokens <= EDGES else stopwatch.seconds(point))
        progress((number + 1) / effort.rounds)
    return {point: statistics.median(seconds) for point, seconds in samples.items()}


def _guess(samples: dict[Point, list[float]], point: Point) -> float:
    """Seconds in proportion to the largest step timed so far."""
    largest = max(samples, key=lambda p: p.tokens)
    return samples[largest][0] * point.tokens / largest.tokens


class Stopwatch:
    """Times single steps. Content does not matter to time, but cached entries must have been written: memory that never was is
    one page of zeros, which is read faster than any entry."""

    def __init__(self, model: LoadedModel):
        self.runner, self.context, self.state_inputs = model.runner, model.context, model.state_inputs
        self._written: set[int] = set()

    def warm_seconds(self, point: Point) -> float:
        """After a run that is not timed: the first of its kind is slow, and so is one after a large step that filled the CPU's caches."""
        self.seconds(point)
        return self.seconds(point)

    def seconds(self, point: Point) -> float:
        """Of a step of `tokens`, all with logits, in as few sequences as the context allows. A draft that reads states has one of each
        token, and what it makes of them belongs to the step."""
        parts = -(-(point.tokens + point.cached) // self.context)
        segments: list[Segment] = []
        sequences = [KvSequence(self.runner.cache) for _ in range(parts)]
        try:
            for part, kv in enumerate(sequences):
                tokens, cached = ((total + part) // parts for total in (point.tokens, point.cached))
                kv.extend(cached)
                self._write(kv.slots)
                kv.extend(tokens)
                segments.append(Segment(kv, [0] * tokens, range(cached, cached + tokens), range(tokens), causal(cached, tokens)))
            fed_s = self._feed(segments)
            return fed_s + self.runner.run(segments).seconds
        finally:
            for kv in sequences:
                kv.release()

    def _feed(self, segments: Sequence[Segment]) -> float:
        """Returns the seconds that it took."""
        if self.state_inputs is None:
            return 0.0
        state, began = torch.zeros_like(self.state_inputs.no_state), time.perf_counter()
        for s in segments:
            s.inputs, s.states = self.state_inputs.rows([state] * len(s)), s.outputs
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        return time.perf_counter() - began

    def _write(self, slots: Sequence[int]) -> None:
        data = self.runner.cache.data
        if new := [slot for slot in slots if slot not in self._written]:
            data.index_fill_(3, torch.tensor(new, device=data.device), 0.0)
            self._written.update(new)
