"""`drafthouse profile` on the demo draft, on this machine."""

import json
import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import build_cli
from drafthouse.config.serving import DrafterConfig, ModelConfig
from drafthouse.engine import profiling
from drafthouse.engine.loader import load

PACED = """
target: {path: demo:target, device: paced, paced: {curve: llama-8b-1xh100, time_scale: 2}}
"""


def _profile(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_cli(), ["profile", *arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def quick(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(profiling, "THOROUGH", profiling.Effort(rounds=2, budget_s=0.2))


def _draft(path: pathlib.Path) -> dict[str, Any]:
    draft: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["models"]["draft"]
    return draft


@pytest.mark.usefixtures("quick")
def test_what_is_measured_is_shown_and_kept_for_the_replica(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "profile.json"
    code, output = _profile("--role", "draft", "--json", str(file))
    assert code == 0, output
    assert "profiling the draft" in output
    assert "error at points held out" in output
    draft = _draft(file)
    assert not draft["cached"]
    assert [knot["tokens"] for knot in draft["knots"]][:16] == list(range(1, 17))

    latency = profiling.latency_of(load(ModelConfig(path="demo:draft")), DrafterConfig().step_tokens)
    assert 1e3 * latency.seconds(4, 0) == pytest.approx(draft["knots"][3]["ms"]), "a replica reads this very file"

    code, output = _profile("--role", "draft", "--json", str(file))
    assert "from the cache" in output
    assert _draft(file)["cached"]
    assert _draft(file)["knots"] == draft["knots"]
    _profile("--role", "draft", "--json", str(file), "--fresh")
    assert not _draft(file)["cached"]
    assert _draft(file)["knots"] != draft["knots"]


@pytest.mark.usefixtures("quick")
def test_a_paced_model_has_nothing_to_measure(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "paced.yaml"
    config.write_text(PACED, encoding="utf-8")
    code, output = _profile("--config", str(config), "--role", "target")
    assert code == 0, output
    assert "paced by" in output
    assert "nothing to measure" in output
    assert not (tmp_path / "cache").exists()


def test_errors_name_what_is_wrong(tmp_path: pathlib.Path) -> None:
    code, output = _profile("--config", str(tmp_path / "none.yaml"))
    assert code == 1
    assert "none.yaml" in output
    code, output = _profile("--json", str(tmp_path / "no" / "folder.json"))
    assert code == 1
    assert "--json" in output
