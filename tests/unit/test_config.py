"""The configuration: what it takes, and how it names what is wrong."""

import pathlib

import pytest

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ServingConfig, load_config
from drafthouse.errors import ConfigError

SERVE_CONFIG = pathlib.Path(__file__).parents[2] / "deployments" / "serve_config.yaml"


def _write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_a_file_and_from_an_empty_one(tmp_path: pathlib.Path) -> None:
    assert load_config(None) == ServingConfig()
    assert load_config(_write(tmp_path, "")) == ServingConfig()


def test_the_shipped_file_says_the_defaults() -> None:
    assert load_config(SERVE_CONFIG) == ServingConfig()


def test_a_serve_style_file_gives_its_applications_arguments(tmp_path: pathlib.Path) -> None:
    text = "applications:\n- import_path: deployments.app:build_app\n  args: {model: mine, verifier: {replicas: 2}}\n"
    config = load_config(_write(tmp_path, text))
    assert (config.model, config.verifier.replicas) == ("mine", 2)
    assert load_config(_write(tmp_path, "applications:\n- import_path: a:b\n")) == ServingConfig()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("verifer: {replicas: 2}", "verifer"),
        ("target: {path: demo:target, treads: 2}", "target.treads"),
        ("verifier: {replicas: 0}", "verifier.replicas"),
        ("drafter: {replicas: -1}", "drafter.replicas"),
        ("verifier: {replicas: many}", "verifier.replicas"),
        ("server: {http_port: 70000}", "server.http_port"),
        ("target: {path: demo:target, dtype: int8}", "target.dtype"),
        ("target: {path: demo:target, device: paced}", "paced"),
        ("target: {path: demo:target, parallel: 2, compile: true}", "parallel: above 1"),
        ("target: {path: demo:target, parallel: 0}", "target.parallel"),
        ("verifier: {accelerator: 'H100 or A100'}", "verifier.accelerator"),
        ("target: {dtype: float32}", "target.path"),
        ("- a\n- b", "mapping"),
        ("a: [", "not YAML"),
        ("applications: []", "one application"),
    ],
)
def test_a_fault_names_the_file_and_the_key(tmp_path: pathlib.Path, text: str, named: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, "colour: red\ntree: {width: 0}"))
    assert "colour" in str(caught.value)
    assert "tree.width" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_zero_drafters_is_allowed() -> None:
    assert ServingConfig.model_validate({"drafter": {"replicas": 0}}).drafter.replicas == 0


def test_model_paths(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_path(str(tmp_path)) == str(tmp_path)
    assert model_path("owner/name") == "owner/name"
    with pytest.raises(ConfigError, match="missing-model"):
        model_path(str(tmp_path / "missing-model"))
    with pytest.raises(ConfigError, match="demo:other"):
        model_path("demo:other")
