"""Checks before deployment: each refusal names the key and what is wrong."""

import json
import pathlib
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from deployments.cli import ray_environment
from deployments.cli.machine_checks import check_ports
from deployments.cli.ray_environment import free_port
from deployments.preflight import check_models, first_difference
from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError, ModelError
from drafthouse.stages.trigram_table import counted, packed


def _model(folder: pathlib.Path, tokens: list[str] | None) -> str:
    """A model folder with a configuration, weights of no tensors, and, unless None, a tokenizer of these tokens."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    save_file({}, folder / "model.safetensors")
    if tokens is not None:
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return str(folder)


def _config(target: str, draft: str) -> ServingConfig:
    return ServingConfig.model_validate({"target": {"path": target}, "draft": {"path": draft}})


def test_equal_vocabularies_pass(tmp_path: pathlib.Path) -> None:
    check_models(_config(_model(tmp_path / "a", ["x", "y"]), _model(tmp_path / "b", ["x", "y"])))


def test_output_layers_of_one_tokenizer_may_be_padded_differently(tmp_path: pathlib.Path) -> None:
    """As those of Qwen 2.5 are: 152,064 rows in the large models and 151,936 in the small ones."""
    config = _config(_model(tmp_path / "a", ["x", "y"]), _model(tmp_path / "b", ["x", "y"]))
    for name, size in (("a", 152064), ("b", 151936)):
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": size}), encoding="utf-8")
    check_models(config)


def test_one_folder_for_both_needs_no_comparison(tmp_path: pathlib.Path) -> None:
    path = _model(tmp_path / "a", ["x"])
    check_models(_config(path, path))


def test_the_first_difference_is_shown(tmp_path: pathlib.Path) -> None:
    config = _config(_model(tmp_path / "a", ["x", "y", "z"]), _model(tmp_path / "b", ["x", "why", "zed"]))
    with pytest.raises(ModelError, match=r"id 1 is 'y' in the target and 'why' in the draft \(target: .*/a, draft: .*/b\)"):
        check_models(config)


def test_a_token_that_one_tokenizer_lacks_is_shown(tmp_path: pathlib.Path) -> None:
    config = _config(_model(tmp_path / "a", ["x", "y", "z"]), _model(tmp_path / "b", ["x", "y"]))
    with pytest.raises(ModelError, match=r"id 2 is 'z' in the target and missing in the draft"):
        check_models(config)


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_missing_folder_is_named(tmp_path: pathlib.Path, role: str) -> None:
    paths = {"target": _model(tmp_path / "a", ["x"]), "draft": _model(tmp_path / "b", ["x"])}
    paths[role] = str(tmp_path / "nothing-here")
    with pytest.raises(ConfigError, match=rf"^{role}\.path: .*/nothing-here: no such folder"):
        check_models(_config(**paths))


def test_faults_of_both_models_are_told_together(tmp_path: pathlib.Path) -> None:
    config = _config(str(tmp_path / "nothing-here"), _model(tmp_path / "b", None))
    with pytest.raises(ConfigError) as caught:
        check_models(config)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["target.path", "draft.path"]


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    path = _model(tmp_path / "a", ["x"])
    (tmp_path / "a" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"target\.path: {path}: tokenizer\.json: no tokenizer that this version of tokenizers reads: "):
        check_models(_config(path, path))
    (tmp_path / "a" / "tokenizer.json").unlink()
    (tmp_path / "a" / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=rf"^target\.path: {path}: no usable tokenizer: "):
        check_models(_config(path, path))


def test_a_model_that_is_no_language_model_of_the_served_kind_is_named(tmp_path: pathlib.Path) -> None:
    path = _model(tmp_path / "a", ["x"])
    (tmp_path / "a" / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json: model_type t5 is no decoder-only language model"):
        check_models(_config(path, path))


def test_a_model_on_a_gpu_whose_replicas_reserve_none_is_refused(tmp_path: pathlib.Path) -> None:
    path = _model(tmp_path / "a", ["x"])
    config = {"target": {"path": path, "device": "cuda"}, "draft": {"path": path}}
    with pytest.raises(ConfigError, match=r"^verifier\.num_gpus: 0; target\.device is cuda, so it must be above 0"):
        check_models(ServingConfig.model_validate(config))
    check_models(ServingConfig.model_validate(config | {"verifier": {"num_gpus": 0.5}}))


def test_a_folder_without_a_tokenizer_is_named(tmp_path: pathlib.Path) -> None:
    config = _config(_model(tmp_path / "a", ["x"]), _model(tmp_path / "b", None))
    with pytest.raises(ConfigError, match=r"draft\.path: .*no tokenizer"):
        check_models(config)


@pytest.mark.parametrize(
    ("target", "draft", "said"),
    [
        ({"a": 0}, {"a": 0}, None),
        ({"a": 0, "b": 1}, {"a": 0}, "id 1 is 'b' in the target and missing in the draft"),
        ({"a": 0}, {"a": 0, "b": 7}, "id 7 is missing in the target and 'b' in the draft"),
        ({"a": 0, "b": 1}, {"b": 0, "a": 1}, "id 0 is 'a' in the target and 'b' in the draft"),
    ],
)
def test_first_difference(target: dict[str, int], draft: dict[str, int], said: str | None) -> None:
    assert first_difference(target, draft) == said


def _server(**ports: int) -> ServingConfig:
    free = {"http_port": free_port(), "grpc_port": free_port(), "dashboard_port": free_port()}
    return ServingConfig.model_validate({"server": free | ports})


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_ports_drawn_together_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_environment, "FREE_PORTS", range(20_000, 20_204))
    assert all(len(set(ray_environment.free_ports(4))) == 4 for _ in range(50))


def test_free_ports_pass() -> None:
    check_ports(_server())


@pytest.mark.parametrize("key", ["http_port", "grpc_port", "dashboard_port"])
def test_a_port_in_use_is_named(used_port: int, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"server\.{key}: port {used_port}"):
        check_ports(_server(**{key: used_port}))


def test_one_port_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.grpc_port: server\.http_port has port 18000 too"):
        check_ports(_server(http_port=18000, grpc_port=18000))


def test_all_ports_at_fault_are_told_together(used_port: int) -> None:
    with pytest.raises(ConfigError) as caught:
        check_ports(_server(http_port=used_port, grpc_port=18000, dashboard_port=18000))
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["server.http_port", "server.dashboard_port"]


def test_replicas_cannot_share_a_fixed_port() -> None:
    config = ServingConfig.model_validate(_server().model_dump() | {"drafter": {"replicas": 2, "port": free_port()}})
    with pytest.raises(ConfigError, match=r"drafter\.port: 2 replicas"):
        check_ports(config)


def test_a_trigram_table_is_held_against_the_targets_vocabulary(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.npz").write_bytes(packed(counted(np.array([[1, 2, 40_000]]), 1)))
    stages = [{"kind": "model"}, {"kind": "trigram", "table": str(tmp_path / "t.npz"), "placement": "verifier"}]
    path = _model(tmp_path / "a", ["x"])
    config = ServingConfig.model_validate({"target": {"path": path}, "draft": {"path": path}, "drafter": {"stages": stages}})
    with pytest.raises(ConfigError, match=r"^drafter\.stages\.1\.table: .*t\.npz: holds token 40000, outside the vocabulary of 32000"):
        check_models(config)
    (tmp_path / "a" / "config.json").write_text('{"model_type": "llama", "vocab_size": 50000}', encoding="utf-8")
    check_models(config)


@pytest.mark.parametrize(("role", "pool"), [("target", "verifier"), ("draft", "drafter")])
def test_a_parallel_size_that_does_not_divide_the_heads_names_the_field(tmp_path: pathlib.Path, role: str, pool: str) -> None:
    path = _model(tmp_path / "a", ["x"])
    config = {name: {"path": path} for name in ("target", "draft")}
    config[role] |= {"parallel": 3}
    with pytest.raises(ConfigError, match=rf"^{role}\.parallel: 3 does not divide 32 attention heads and 32 KV heads; it can be 1, 2, 4,"):
        check_models(ServingConfig.model_validate(config))
    config[role] |= {"parallel": 2, "device": "cuda"}
    with pytest.raises(ConfigError, match=rf"^{pool}\.num_gpus: 0\.5; with {role}\.parallel 2 it is each rank's and must be 1"):
        check_models(ServingConfig.model_validate(config | {pool: {"num_gpus": 0.5}}))
    check_models(ServingConfig.model_validate(config | {pool: {"num_gpus": 1}}))
