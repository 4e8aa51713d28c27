"""Synthetic acceptance: drawn at the set rate, and never without the explicit flag."""

import pytest
from typer.testing import CliRunner

from deployments.cli.main import build_cli
from deployments.preflight import ALLOW_SYNTHETIC, check_synthetic
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError
from verifier.verification import uniform

SYNTHETIC = ServingConfig.model_validate({"verifier": {"synthetic_acceptance": {"rate": 0.7}}})


@pytest.mark.parametrize("environment", [{}, {ALLOW_SYNTHETIC: "0"}, {ALLOW_SYNTHETIC: ""}])
def test_the_config_alone_is_an_error_that_says_how(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"verifier\.synthetic_acceptance.*--allow-synthetic-acceptance.*=1"):
        check_synthetic(SYNTHETIC, environment)


def test_the_flag_allows_it_and_nothing_needs_it_otherwise() -> None:
    check_synthetic(SYNTHETIC, {ALLOW_SYNTHETIC: "1"})
    check_synthetic(ServingConfig(), {})


def test_serve_refuses_before_it_starts_anything(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_SYNTHETIC, raising=False)
    file = tmp_path / "config.yaml"
    file.write_text("verifier: {synthetic_acceptance: {rate: 0.7}}")
    result = CliRunner().invoke(build_cli(), ["serve", "--config", str(file)])
    assert result.exit_code == 1
    assert "verifier.synthetic_acceptance" in result.output


def test_draws_are_uniform_and_a_function_of_seed_and_position() -> None:
    draws = [uniform(seed, position) for seed in range(40) for position in range(100)]
    assert sum(draw < 0.7 for draw in draws) / len(draws) == pytest.approx(0.7, abs=0.025)
    assert uniform(3, 5) == uniform(3, 5)
    assert len(set(draws)) == len(draws)
