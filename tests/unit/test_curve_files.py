"""Latency curves from files: the package's own, the user's, and files that hold none."""

import json
import pathlib
from typing import Any

import pytest

from drafthouse.engine.curve_files import CURVES, load_curve
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve, ScaledCurve

GOOD: dict[str, Any] = {"name": "x", "source": "a test", "base_ms": 5.0, "per_token_ms": 0.1, "per_kv_token_ms": 0.0}


def test_curves_of_the_package_load_and_scale() -> None:
    names = [path.stem for path in CURVES.glob("*.json")]
    assert "llama-70b-4xh100" in names
    for name in names:
        curve = load_curve(name)
        assert curve.source
        assert ScaledCurve(curve, 3.0).seconds(7, 100) == pytest.approx(3 * curve.seconds(7, 100))
    assert load_curve("llama-70b-4xh100").seconds(10, 1000) == pytest.approx(0.0183 + 10 * 0.064e-3 + 1000 * 6.2e-8)


def test_a_curve_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no curve 'llama'; the package has .*llama-8b-1xh100"):
        load_curve("llama")


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1, 2]",
        "3",
        json.dumps(GOOD | {"unknown": 1}),
        json.dumps({"name": "x"}),
        json.dumps(GOOD | {"base_ms": "five"}),
        json.dumps(GOOD | {"per_token_ms": None}),
        json.dumps(GOOD | {"base_ms": 0}),
        json.dumps(GOOD | {"per_token_ms": -1}),
        json.dumps(GOOD | {"per_kv_token_ms": float("nan")}),
    ],
)
def test_a_bad_curve_file_is_a_config_error_that_names_it(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="bad.json"):
        load_curve(str(path))


def test_a_curve_from_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert load_curve(str(path)) == Curve(**GOOD)
