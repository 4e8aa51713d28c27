"""The configuration: what it takes, and how it names what is wrong."""

import pathlib

import pytest

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.config_file import load_config
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

SERVE_CONFIG = pathlib.Path(__file__).parents[2] / "deployments" / "serve_config.yaml"
HASH = "sha256:" + 64 * "0"
PLANE = "{certificate: /c, key: /k, authority: /a, token_file: /t}"


def _write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_a_file_and_from_a_mapping_without_keys(tmp_path: pathlib.Path) -> None:
    assert load_config(None) == ServingConfig()
    assert load_config(_write(tmp_path, "{}")) == ServingConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("# target: {path: /models/x}\n", "the file is empty"),
        ("[]", "the top level is a list"),
        ("demo:target", "the top level is a single value"),
        ("applications:\n- args: []", "applications.0.args is a list"),
    ],
)
def test_what_says_nothing_is_refused_and_not_taken_for_the_demo(tmp_path: pathlib.Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml: {said}.*; it must be a mapping of keys"):
        load_config(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("verifer: {}", "verifer: no such key; did you mean verifier?"),
        ("target: {path: a, treads: 2}", "target.treads: no such key; did you mean threads?"),
        ("server: {port: 80}", "server.port: no such key; did you mean http_port or grpc_port?"),
        ("dtype: float32", "dtype: no such key here; it is a key of target, draft"),
        ("drafter: {stages: [{kind: model, placment: x}]}", "drafter.stages.0.placment: no such key; did you mean placement?"),
        ("tree: {colour: red}", "tree.colour: no such key; there are max_nodes, max_depth, width, grow_during_verification"),
        (
            "target: {path: a, dtype: fp16}",
            "target.dtype: must be one of 'float64', 'float32', 'bfloat16', 'float16' or 'int8', not 'fp16'",
        ),
        ("target: demo:target", "target: must be a section of keys: path, dtype, device,"),
        ("target: {path: a, dtype: int8, device: cuda}", "target: dtype: int8 runs on CPUs, in one process; take bfloat16 otherwise"),
        ("target: {path: a, dtype: int8, parallel: 2}", "target: dtype: int8 runs on CPUs, in one process; take bfloat16 otherwise"),
        ("target: {}", "target.path: is missing (folder, GGUF file, hub id,"),
        ("draft: none", "(null: stages without a model alone)"),
        ("target: {path: a, kv_tokens: 16k}", "target.kv_tokens: must be a valid integer, unable to parse string as an integer (KV slots"),
        ("drafter: {stages: [{kind: modle}]}", "drafter.stages.0.kind: must be model, trigram, lookup, suffix, or module:Class; did you"),
        ("drafter: {stages: model}", "drafter.stages: must be a list"),
        ("security: {api_keys: {hashes: [sk-1]}}", "'^sha256:[0-9a-f]{64}$' (what `drafthouse hash-key` prints)"),
        (
            f"security: {{api_keys: {{hashes: ['{HASH}']}}}}",
            "security: api_keys without data_plane: whoever reaches a verifier",
        ),
        (f"security: {{open_data_plane: true, data_plane: {PLANE}}}", "security: open_data_plane: true and data_plane exclude each other"),
        ("target:\n\tpath: x", "not YAML: line 2, column 1: found character"),
        ("target: {path: a}\ntarget: {path: b}", "not YAML: line 2, column 1: the key target stands twice"),
    ],
)
def test_a_fault_says_what_to_write_instead(tmp_path: pathlib.Path, text: str, line: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    [only] = str(caught.value).splitlines()
    assert only.startswith(f"{path}: ")
    assert line in only
    assert "sk-1" not in only


def test_a_file_in_another_encoding_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes("model: modèle".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml: not a text file in UTF-8"):
        load_config(path)


def test_a_merged_mapping_may_be_overridden(tmp_path: pathlib.Path) -> None:
    text = "target: &model {path: demo:target, threads: 2}\ndraft: {<<: *model, path: demo:draft}"
    config = load_config(_write(tmp_path, text))
    assert config.draft is not None
    assert (config.draft.path, config.draft.threads) == ("demo:draft", 2)


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
        ("api: {tool_parser: hermess}", "api.tool_parser"),
        ("api: {unknown_fields: drop}", "api.unknown_fields"),
        ("drafter: {replicas: -1}", "drafter.replicas"),
        ("verifier: {replicas: many}", "verifier.replicas"),
        ("server: {http_port: 70000}", "server.http_port"),
        ("target: {path: demo:target, dtype: int4}", "target.dtype"),
        ("target: {path: demo:target, device: paced}", "paced"),
        ("target: {path: demo:target, parallel: 2, device: paced, paced: {curve: x}}", "parallel: above 1"),
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


def test_all_keys_that_do_not_fit_together_are_told_at_once(tmp_path: pathlib.Path) -> None:
    text = "drafter: {stages: [{kind: lookup, placement: verifier}]}\nverifier: {replicas: 4}\nautoscaling: {verifier: {max: 2}}"
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, text))
    starts = ["draft and drafter.stages: ", "drafter.replicas: ", "verifier.replicas: 4"]
    assert all(f"config.yaml: {start}" in line for start, line in zip(starts, str(caught.value).splitlines(), strict=True))


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_zero_drafters_is_allowed() -> None:
    assert ServingConfig.model_validate({"drafter": {"replicas": 0}}).drafter.replicas == 0


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_on_and_off_are_words_though_yaml_reads_them_as_truth_values(tmp_path: pathlib.Path, word: str) -> None:
    config = load_config(_write(tmp_path, f"target: {{path: demo:target, prefix_cache: {word}}}\n"))
    assert config.target.prefix_cache == word


def test_model_paths(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_path(str(tmp_path)) == str(tmp_path)
    assert model_path("owner/name") == "owner/name"
    with pytest.raises(ConfigError, match="missing-model"):
        model_path(str(tmp_path / "missing-model"))
    with pytest.raises(ConfigError, match="demo:other"):
        model_path("demo:other")
