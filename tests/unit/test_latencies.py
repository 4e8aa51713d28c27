"""What clients wait for, by request."""

import pytest

from deployments.gateway.inference_service import Latencies, Stopwatch


def _samples(latencies: Latencies) -> dict[str, list[float]]:
    return {key: list(samples) for key, samples in latencies.samples.items()}


def test_first_token_pace_and_longest_pause():
    latencies = Latencies()
    watch = Stopwatch(latencies, now=10.0)
    for count, now in [(0, 10.1), (3, 10.5), (2, 10.7), (0, 11.0), (2, 11.3)]:
        watch.tokens(count, now)
    watch.served()
    taken = {key: values for key, (values,) in _samples(latencies).items()}
    assert taken["first_token_seconds"] == pytest.approx(0.5)
    assert taken["longest_pause_seconds"] == pytest.approx(0.6)
    assert taken["token_seconds"] == pytest.approx(0.2), "0.8 s for the four tokens that came after the first three"
    assert taken["request_seconds"] == pytest.approx(1.3)


def test_all_tokens_at_once_have_no_pace():
    latencies = Latencies()
    watch = Stopwatch(latencies, now=0.0)
    watch.tokens(5, 0.25)
    watch.served()
    assert _samples(latencies) == {
        "first_token_seconds": [0.25], "token_seconds": [], "longest_pause_seconds": [], "request_seconds": [0.25]
    }  # fmt: skip


def test_a_request_that_breaks_off_counts_its_first_token_only():
    latencies = Latencies()
    watch = Stopwatch(latencies, now=0.0)
    watch.tokens(1, 0.1)
    watch.tokens(1, 0.2)
    assert [key for key, values in _samples(latencies).items() if values] == ["first_token_seconds"]
