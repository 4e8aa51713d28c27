"""Every folder is served, with the text of transformers' own `generate`, or refused with what is wrong with it."""

import pathlib
from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, dynamic_module_utils

from deployments.preflight import check_models
from drafthouse.config.serving import ModelConfig, ServingConfig
from drafthouse.engine.loader import load
from drafthouse.errors import DrafthouseError
from tests.engine.model_folders import FAMILIES, bring_code, byte_tokenizer, change_config, cut_short, save, without_tensor
from tests.engine.oracle import greedy
from tests.engine.pairs import pair, prompts, request

TOKENS = 24
LOOKUP = {"draft": None, "drafter": {"replicas": 0, "stages": [{"kind": "lookup", "placement": "verifier"}]}}


def _served(folder: pathlib.Path, trust_remote_code: bool = False) -> None:
    """Passes the checks before deployment and loads; the text, drafted by the same model, is transformers'."""
    model = ModelConfig(path=str(folder), dtype="float64", kv_tokens=1024, trust_remote_code=trust_remote_code)
    check_models(ServingConfig.model_validate({"target": model, **LOOKUP}))
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, trust_remote_code=trust_remote_code)
    process = pair(load(model), [load(model)])
    for i, prompt in enumerate(prompts(2)):
        texts = process.generate([request(f"r{i}", prompt, TOKENS)])
        assert texts[f"r{i}"] == greedy(stock, prompt, TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_served(tmp_path: pathlib.Path, family: str) -> None:
    _served(save(family, tmp_path / family))


def test_a_model_in_shards_is_served(tmp_path: pathlib.Path) -> None:
    folder = save("llama", tmp_path / "llama", max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    _served(folder)


def test_a_model_with_code_of_its_own_is_served_where_it_may_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save("llama", tmp_path / "llama")
    bring_code(folder)
    _served(folder, trust_remote_code=True)
    assert list((tmp_path / "modules").rglob("has_run"))


def _started(config: ServingConfig) -> None:
    check_models(config)
    load(config.target)


def _shard_missing(folder: pathlib.Path) -> None:
    sharded = save("llama", folder.with_name("sharded"), max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    for file in sharded.iterdir():
        file.rename(folder / file.name)
    sorted(folder.glob("*.safetensors"))[0].unlink()


def _adapter(folder: pathlib.Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}', encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"^target\.path: .*no tokenizer here"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"^target\.path: .*no config\.json here"),
    "adapter": (_adapter, r"^target\.path: .*LoRA adapter, not a model; give its base \(org/base\), or merge"),
    "gptq": (
        lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        r"^target\.path: .*weights quantised with gptq need device: cuda, and this section has cpu",
    ),
    "cut short": (lambda folder: cut_short(folder / "model.safetensors"), r"^target\.path: .*: model\.safetensors: .*: cut short"),
    "shard missing": (_shard_missing, r"^target\.path: .*: model-00001-of-\d+\.safetensors: missing, though model"),
    "own code": (bring_code, r"^target\.path: .*config\.json: auto_map: .*trust_remote_code: true"),
    "wrong type in the config": (lambda folder: change_config(folder, vocab_size="many"), r"^target\.path: .*: vocab_size is 'many'"),
    "tokenizer cut short": (lambda folder: cut_short(folder / "tokenizer.json"), r"^target\.path: .*: tokenizer\.json: not JSON"),
    "tensor missing": (
        lambda folder: without_tensor(folder, "model.layers.1.mlp.up_proj.weight"),
        r"the weights are not those of config\.json: model\.layers\.1\.mlp\.up_proj\.weight is missing; both",
    ),
    "config of another size": (
        lambda folder: change_config(folder, intermediate_size=112),
        r"the weights are not those of config\.json: .*down_proj\.weight has shape \[64, 96\], .* asks for \[64, 112\] \(and 5 more",
    ),
    "recurrent": (lambda folder: save("mamba", folder, torch.float32), r"mamba: self-check: the model has no attention heads"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_refused_with_the_reason(tmp_path: pathlib.Path, kind: str) -> None:
    spoil, said = BROKEN[kind]
    folder = save("llama", tmp_path / "model")
    spoil(folder)
    config = ServingConfig.model_validate({"target": {"path": str(folder), "kv_tokens": 1024}, **LOOKUP})
    with pytest.raises(DrafthouseError, match=said) as refused:
        _started(config)
    assert str(folder) in str(refused.value)
    assert not list(folder.rglob("has_run"))


def test_another_vocabulary_is_refused(tmp_path: pathlib.Path) -> None:
    target, draft = (save("llama", tmp_path / name) for name in ("target", "draft"))
    byte_tokenizer(65).save_pretrained(draft)
    config = ServingConfig.model_validate({"target": {"path": str(target)}, "draft": {"path": str(draft)}})
    with pytest.raises(DrafthouseError, match=r"draft\.path and target\.path have different vocabularies, .*: id 65 is '.' in"):
        check_models(config)


def test_nothing_is_asked_of_a_person(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would prompt for leave to run a tokenizer's code."""
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(f"asked: {prompt}"))
    folder = save("llama", tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}', "utf-8")
    with pytest.raises(DrafthouseError, match=r"^target\.path: .*no usable tokenizer: .*contains custom code"):
        check_models(ServingConfig.model_validate({"target": {"path": str(folder)}, **LOOKUP}))
