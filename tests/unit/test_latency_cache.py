"""Profiles on disk: what was written is read; whatever else lies there is as good as absent, with one warning that names the file."""

import json
import logging
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from drafthouse.engine.latency_cache import LatencyCache, Profile, ProfileKey
from drafthouse.policy.latency import FitError

KEY = ProfileKey(model="abc", dtype="float32", device="a CPU", threads=1, parallel=1, forward="native", largest=64)
PROFILE = Profile(knots=((1, 0.01), (2, 0.011), (16, 0.009)), per_kv_token=1e-7, fit_error=FitError(0.02, 0.05))


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> LatencyCache:
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path))
    return LatencyCache()


def test_what_was_written_is_read(cache: LatencyCache, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.read(KEY) is None
    cache.write(KEY, PROFILE)
    assert cache.read(KEY) == PROFILE
    assert [p.parent for p in tmp_path.rglob("*.json")] == [tmp_path / "latency"]
    assert not list(tmp_path.rglob("*.tmp"))
    assert not caplog.records


@pytest.mark.parametrize(
    "other",
    [
        {"model": "abd"}, {"dtype": "bfloat16"}, {"device": "another CPU"}, {"threads": 2}, {"parallel": 2}, {"forward": "transformers"},
        {"largest": 128}, {"torch": "1.0"}, {"transformers": "1.0"}, {"drafthouse": "0"}, {"format": 0},
    ],
)  # fmt: skip
def test_each_field_of_the_key_asks_for_a_profile_of_its_own(cache: LatencyCache, other: dict[str, Any]) -> None:
    cache.write(KEY, PROFILE)
    assert cache.read(KEY.model_copy(update=other)) is None


def test_the_profile_becomes_the_model_it_was(cache: LatencyCache) -> None:
    cache.write(KEY, PROFILE)
    profile = cache.read(KEY)
    assert profile is not None
    latency = profile.latency()
    assert latency.seconds(2, 1000) == pytest.approx(0.011 + 1e-4)
    assert latency.fit_error == FitError(0.02, 0.05)


def _profile(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda entry: entry | {"profile": entry["profile"] | changes}


def _key(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda entry: entry | {"key": entry["key"] | changes}


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda entry: [entry],
    "no profile": lambda entry: {"key": entry["key"]},
    "an unknown field": lambda entry: entry | {"more": 1},
    "another format": _key(format=99),
    "another model": _key(model="def"),
    "no knots": _profile(knots=[]),
    "a negative time": _profile(knots=[[1, -0.01]]),
    "no time": _profile(knots=[[1, 0.0]]),
    "not a number": _profile(knots=[[1, float("nan")]]),
    "infinite": _profile(knots=[[1, float("inf")]]),
    "text": _profile(knots=[[1, "0.01"]]),
    "unsorted": _profile(knots=[[4, 0.01], [1, 0.01]]),
    "twice the same": _profile(knots=[[1, 0.01], [1, 0.02]]),
    "no tokens": _profile(knots=[[0, 0.01]]),
    "a negative slope": _profile(per_kv_token=-1e-6),
    "a slope that is no number": _profile(per_kv_token=float("nan")),
    "an error that is no number": _profile(fit_error=[float("nan"), 0.1]),
    "a negative error": _profile(fit_error=[-0.5, 0.1]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_absent_with_a_warning_that_names_it(
    cache: LatencyCache, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache.write(KEY, PROFILE)
    path = cache.path(KEY)
    path.write_text(json.dumps(DAMAGE[damage](json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    _expect_one_warning(cache, caplog)
    cache.write(KEY, PROFILE)
    assert cache.read(KEY) == PROFILE


@pytest.mark.parametrize("content", [b"", b"not json", b'{"key": {', b"\xff\xfe\x00", b"null"])
def test_bytes_that_are_no_json_are_absent_too(cache: LatencyCache, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    cache.folder.mkdir()
    cache.path(KEY).write_bytes(content)
    _expect_one_warning(cache, caplog)


def _expect_one_warning(cache: LatencyCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.read(KEY) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(cache.path(KEY)) in record.message
    assert "\n" not in record.message


def test_a_folder_that_cannot_be_written_costs_a_warning_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path / "file"))
    LatencyCache().write(KEY, PROFILE)
    (record,) = caplog.records
    assert str(tmp_path / "file") in record.message


def test_who_reads_while_many_write_never_sees_half_a_file(cache: LatencyCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.write(KEY, PROFILE)
    large = Profile(knots=tuple((n, n / 1e3) for n in range(1, 2000)), per_kv_token=0.0, fit_error=FitError(0.0, 0.0))

    def write() -> None:
        for i in range(30):
            cache.write(KEY, (PROFILE, large)[i % 2])

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert cache.read(KEY) in (PROFILE, large)
    for writer in writers:
        writer.join()
    assert not caplog.records
    assert not list(cache.folder.glob("*.tmp"))
