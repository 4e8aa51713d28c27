"""Profiling with a runner that says how long each step took: what comes out is the curve that went in."""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.latency_cache import LatencyCache, key_of
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.profiling import AT_START, Effort, knot_counts, latency_of, measure
from drafthouse.engine.segment import Segment
from drafthouse.engine.state_inputs import StateInputs
from drafthouse.policy.latency import MeasuredLatency

Truth = Callable[[int, int], float]
QUICK = Effort(rounds=3, budget_s=1e3)


class TimedRunner:
    """Stands for a device: checks each step and reports the time that `truth(tokens, cached)` gives, times `noise`'s next."""

    def __init__(self, truth: Truth, slots: int, context: int, noise: Iterator[float] | None = None):
        self.cache = KvCache(1, 1, 1, slots, torch.float32, torch.device("cpu"))
        self.cache.data.fill_(float("nan"))
        self.forward = SimpleNamespace(name="timed")
        self.truth, self.context, self.noise = truth, context, noise
        self.steps: list[tuple[int, int]] = []
        self.fed: set[tuple[int, ...]] = set()  # rows of inputs beyond its tokens, numbers of each, states beyond its tokens

    def run(self, segments: list[Segment]) -> RunResult:
        tokens = sum(map(len, segments))
        cached = sum(len(s.kv) for s in segments) - tokens
        assert all(len(s) > 0 and s.positions[-1] < self.context and s.positions[0] == len(s.kv) - len(s) for s in segments)
        assert all(len(s.outputs) == len(s) for s in segments)
        read = [slot for s in segments for slot in s.kv.slots[: s.positions[0]]]
        assert not self.cache.data[..., read, :].isnan().any(), "a cached entry is read that was never written"
        self.steps.append((tokens, cached))
        self.fed |= {(s.inputs.shape[0] - len(s), s.inputs.shape[1], len(s.states) - len(s)) for s in segments if s.inputs is not None}
        return RunResult(torch.empty(0), self.truth(tokens, cached) * (next(self.noise) if self.noise else 1.0))


def model(truth: Truth, slots: int = 4096, context: int = 1024, noise: Iterator[float] | None = None) -> LoadedModel:
    return LoadedModel(cast(ModelRunner, TimedRunner(truth, slots, context, noise)), context, "abc")


def runner(loaded: LoadedModel) -> TimedRunner:
    return cast(TimedRunner, loaded.runner)


def stepped(tokens: int, cached: int) -> float:
    """A step after each 8 tokens up to 64, a dip at 15 and 16, then a line; and a slope for what is cached."""
    base = 0.010 + 0.002 * ((min(tokens, 64) + 7) // 8) + 1e-4 * max(0, tokens - 64)
    return base - (0.001 if tokens in (15, 16) else 0.0) + 1e-6 * cached


def test_steps_dips_and_slope_come_out_as_they_are() -> None:
    loaded = model(stepped)
    profile = measure(loaded, 512, QUICK)
    latency = profile.latency()
    for tokens in [*range(1, 18), 24, 25, 32, 33, 48, 49, 64, 65, 128, 512]:
        assert latency.seconds(tokens, 700) == pytest.approx(stepped(tokens, 700)), tokens
    assert profile.per_kv_token == pytest.approx(1e-6)
    assert runner(loaded).cache.allocator.free_count == 4096, "all slots are free again"


def test_a_draft_that_reads_states_has_them_in_its_profile() -> None:
    loaded = model(stepped)
    fed = dataclasses.replace(loaded, state_inputs=SlowInputs(torch.zeros(4, 4), torch.zeros(4)))
    profile = measure(fed, 16, Effort(rounds=2, budget_s=1e3)).latency()
    assert runner(loaded).fed == {(0, 4, 0)}, "a state of each token, and one back"
    assert profile.seconds(1, 0) >= stepped(1, 0) + SLOW_S


SLOW_S = 0.002


class SlowInputs(StateInputs):
    def rows(self, states: Sequence[torch.Tensor | None]) -> torch.Tensor:
        time.sleep(SLOW_S)
        return super().rows(states)


def test_the_fit_error_is_that_of_points_between_the_knots() -> None:
    assert measure(model(stepped), 512, QUICK).fit_error.median == pytest.approx(0.0, abs=1e-9)

    def hidden_step(tokens: int, cached: int) -> float:
        return 0.010 + (0.010 if 65 < tokens < 96 or 97 < tokens < 128 else 0.0)  # between knots only

    error = measure(model(hidden_step), 512, QUICK).fit_error
    assert error.p90 > 0.3
    assert error.median == pytest.approx(0.0, abs=1e-9)


def test_a_slope_that_depends_on_the_tokens_shows_as_fit_error() -> None:
    error = measure(model(lambda tokens, cached: 0.001 + 1e-6 * tokens * cached), 16, QUICK).fit_error
    assert error.median > 0.1


def test_what_slows_a_single_round_is_not_in_the_curve() -> None:
    random = Random(0)
    loaded = model(stepped, noise=(10.0 if random.random() < 0.1 else 1.0 for _ in itertools.count()))
    latency = measure(loaded, 64, Effort(rounds=15, budget_s=1e3)).latency()
    wrong = [n for n in range(1, 17) if latency.seconds(n, 0) != pytest.approx(stepped(n, 0))]
    assert not wrong


def test_a_machine_that_becomes_slower_meanwhile_bends_the_curve_nowhere() -> None:
    """Points are timed in turn: the second half of the rounds at half the speed moves all of them alike."""
    drifting = iter([1.0 + i / 400 for i in range(4000)])
    latency = measure(model(lambda tokens, cached: 0.010, noise=drifting), 64, Effort(rounds=9, budget_s=1e3)).latency()
    times = latency.times(1, 64, 0)
    assert times.max() / times.min() < 1.15


@pytest.mark.parametrize("largest", [16, 17, 20, 32, 272, 512, 2048])
def test_knots_are_dense_first_and_end_with_the_largest(largest: int) -> None:
    counts = knot_counts(largest)
    assert counts == sorted({*counts})
    assert counts[:16] == list(range(1, 17))
    assert counts[-1] == largest
    assert all(b <= 1.5 * a + 1 for a, b in zip(counts[16:], counts[17:], strict=False))


def test_large_steps_that_the_budget_does_not_allow_are_left_out_and_extrapolated() -> None:
    loaded = model(lambda tokens, cached: 0.05 * tokens)  # a second for 20 tokens
    profile = measure(loaded, 512, Effort(rounds=7, budget_s=2.0))
    assert max(n for n, _ in profile.knots) < 64
    assert [n for n, _ in profile.knots][:16] == list(range(1, 17)), "small ones are always measured"
    assert sum(0.05 * tokens for tokens, _ in runner(loaded).steps) < 40.0
    assert profile.latency().seconds(512, 0) == pytest.approx(25.6)


def test_repetitions_stop_where_the_budget_is_used_up() -> None:
    fast, slow = model(lambda tokens, cached: 1e-6), model(lambda tokens, cached: 0.1)
    measure(fast, 64, AT_START)
    measure(slow, 64, AT_START)
    assert len(runner(fast).steps) > 3 * len(runner(slow).steps)


@pytest.mark.parametrize(("slots", "context"), [(64, 1024), (100, 48), (4096, 24), (600, 512)])
def test_small_caches_and_contexts_are_kept_to(slots: int, context: int) -> None:
    loaded = model(stepped, slots, context)  # the runner checks each segment
    profile = measure(loaded, 512, QUICK)
    assert max(n for n, _ in profile.knots) <= slots
    assert profile.per_kv_token == pytest.approx(1e-6)


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    measure(model(stepped), 64, QUICK, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> LatencyCache:
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path))
    return LatencyCache()


def test_the_second_start_measures_nothing(cache: LatencyCache) -> None:
    first, second = model(stepped), model(lambda tokens, cached: 1.0)
    latency = latency_of(first, 64)
    assert runner(first).steps
    again = latency_of(second, 64)
    assert not runner(second).steps
    assert again.seconds(9, 100) == latency.seconds(9, 100)
    latency_of(dataclasses.replace(second, fingerprint="def"), 64)
    assert runner(second).steps, "another model"


def test_a_damaged_cache_is_measured_again_and_mended(cache: LatencyCache, caplog: pytest.LogCaptureFixture) -> None:
    loaded = model(stepped)
    latency_of(loaded, 64)
    path = cache.path(key_of(loaded, 64))
    path.write_text("{", encoding="utf-8")
    latency = latency_of(model(stepped), 64)
    assert isinstance(latency, MeasuredLatency)
    assert [str(path) in record.message for record in caplog.records] == [True]
    assert cache.read(key_of(loaded, 64)) is not None
