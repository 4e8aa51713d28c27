"""An inflated model computes what its source computes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from drafthouse.demo_models.inflate import LABEL, inflate
from drafthouse.errors import ConfigError, ModelError

torch.set_num_threads(1)  # these models are smaller than the cost of waking a second thread

PROMPT = torch.tensor([[5, 90, 17, 33, 2, 61, 44]])


class PreciseNorm(torch.nn.Module):
    """RMSNorm in float64 throughout; transformers' own goes through float32, which hides errors below 1e-7."""

    def __init__(self, weight: torch.Tensor, eps: float):
        super().__init__()
        self.weight, self.eps = weight.double(), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def make_source(folder: Path, dtype: torch.dtype = torch.float64, tied: bool = False, **sizes: int) -> Path:
    """A random Llama: hidden 32, MLP 48, 2 layers, 4 heads of 8 in 2 groups."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=97, initializer_range=0.3, rms_norm_eps=0.01, tie_word_embeddings=tied, **(shape | sizes))
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("Apache-2.0")
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def precise_logits(folder: Path) -> torch.Tensor:
    model = load(folder)
    eps = model.config.rms_norm_eps
    for layer in model.model.layers:
        layer.input_layernorm = PreciseNorm(layer.input_layernorm.weight, eps)
        layer.post_attention_layernorm = PreciseNorm(layer.post_attention_layernorm.weight, eps)
    model.model.norm = PreciseNorm(model.model.norm.weight, eps)
    with torch.no_grad():
        return model(PROMPT).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("hidden", "layers"), [(32, 2), (32, 5), (48, 2), (96, 7)])
def test_same_logits(tmp_path: Path, hidden: int, layers: int, tied: bool) -> None:
    source = make_source(tmp_path / "small", tied=tied)
    inflate(source, tmp_path / "big", hidden, layers)
    torch.testing.assert_close(precise_logits(tmp_path / "big"), precise_logits(source), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_same_logits_of_other_head_groups(tmp_path: Path, kv_heads: int) -> None:
    source = make_source(tmp_path / "small", num_key_value_heads=kv_heads)
    inflate(source, tmp_path / "big", 64, 3)
    torch.testing.assert_close(precise_logits(tmp_path / "big"), precise_logits(source), rtol=1e-9, atol=1e-9)


def test_shapes_and_real_weights(tmp_path: Path) -> None:
    source = make_source(tmp_path / "small")
    inflate(source, tmp_path / "big", 96, 5)
    small, big = load(source), load(tmp_path / "big")
    config = big.config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (96, 144, 5)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (12, 6, 8)
    assert big.lm_head.weight.shape == (97, 96)
    for real, at in ((0, 0), (1, 2)):  # the others of the 5 are idle
        theirs, ours = small.model.layers[real].self_attn, big.model.layers[at].self_attn
        assert torch.equal(ours.k_proj.weight[:16, :32], theirs.k_proj.weight)
        assert torch.equal(ours.o_proj.weight[:32, :32], theirs.o_proj.weight)
        assert ours.v_proj.weight[:16].abs().max() > 0


def test_extra_weights_are_random_where_they_may_be(tmp_path: Path) -> None:
    inflate(make_source(tmp_path / "small"), tmp_path / "big", 64, 3)
    layer = load(tmp_path / "big").model.layers[0]
    for extra in (
        layer.self_attn.q_proj.weight[32:], layer.self_attn.k_proj.weight[:, 32:], layer.self_attn.o_proj.weight[:32, 32:],
        layer.mlp.gate_proj.weight[48:], layer.mlp.up_proj.weight[:48, 32:], layer.mlp.down_proj.weight[:32, 48:],
    ):  # fmt: skip
        assert 0.2 < extra.std() < 0.4
    for silent in (layer.self_attn.v_proj.weight[16:], layer.self_attn.o_proj.weight[32:], layer.mlp.down_proj.weight[32:]):
        assert not silent.any()


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_same_greedy_text_in_float32(tmp_path: Path, stored: torch.dtype) -> None:
    source = make_source(tmp_path / "small", dtype=stored)
    inflate(source, tmp_path / "big", 96, 4)
    texts = []
    for folder in (source, tmp_path / "big"):
        model = load(folder, torch.float32)
        texts.append(model.generate(PROMPT, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)[0].tolist())
    assert texts[0] == texts[1]
    assert len(set(texts[0][7:])) > 8


def test_keeps_dtype_files_and_label(tmp_path: Path) -> None:
    source = make_source(tmp_path / "small", dtype=torch.float16, tied=True)
    inflate(source, tmp_path / "big", 64, 2)
    names = {file.name for file in (tmp_path / "big").iterdir()}
    assert {"tokenizer.json", "generation_config.json", "config.json", "model.safetensors", "README.md"} == names
    config = json.loads((tmp_path / "big" / "config.json").read_text())
    assert config[LABEL] == "small"
    card = (tmp_path / "big" / "README.md").read_text()
    assert card.startswith("**Inflated model**")
    assert card.endswith("Apache-2.0")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "big")
    assert model.dtype == torch.float16
    stored = load_file(tmp_path / "big" / "model.safetensors")
    assert {w.dtype for name, w in stored.items() if "norm" not in name} == {torch.float16}
    assert {w.dtype for name, w in stored.items() if "norm" in name} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_refuses_sizes(tmp_path: Path) -> None:
    source = make_source(tmp_path / "small")
    with pytest.raises(ConfigError, match=r"--hidden 70.*nearest is 64"):
        inflate(source, tmp_path / "big", 70, 2)
    with pytest.raises(ConfigError, match=r"--hidden 16.*nearest is 32"):
        inflate(source, tmp_path / "big", 16, 2)
    with pytest.raises(ConfigError, match="--layers 1"):
        inflate(source, tmp_path / "big", 64, 1)
    with pytest.raises(ConfigError, match="not empty"):
        inflate(source, source, 64, 2)


@pytest.mark.parametrize("change", [{"architectures": ["MistralForCausalLM"]}, {"attention_bias": True}, {"num_hidden_layers": "two"}])
def test_refuses_other_models(tmp_path: Path, change: dict[str, object]) -> None:
    source = make_source(tmp_path / "small")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=next(iter(change)) if "architectures" not in change else "LlamaForCausalLM"):
        inflate(source, tmp_path / "big", 64, 2)
    with pytest.raises(ModelError, match=r"config\.json"):
        inflate(tmp_path / "nothing", tmp_path / "big", 64, 2)
