"""What ends a text, and the sampling that a model's makers advise, from all the files that say it."""

import json
import pathlib

import pytest

from deployments.gateway.model_metadata import all_stops, load_metadata
from drafthouse.config.serving import GatewayConfig, ModelConfig
from drafthouse.errors import ModelError
from drafthouse.sampling import SamplingParams

LLAMA = {
    "model_type": "llama", "vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 128, "eos_token_id": 7,
}  # fmt: skip
NESTED = {"model_type": "gemma3", "eos_token_id": [7, 9], "text_config": LLAMA | {"model_type": "gemma3_text", "eos_token_id": 8}}
ADVICE = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}


def model(folder: pathlib.Path, config: dict = LLAMA, generation: dict | str | None = None) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if generation is not None:
        text = generation if isinstance(generation, str) else json.dumps(generation)
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return ModelConfig(path=str(folder), kv_tokens=100_000)


def test_the_stop_tokens_are_those_of_all_files(tmp_path):
    assert load_metadata(model(tmp_path), None).stop_tokens == (7,)
    assert load_metadata(model(tmp_path), 3).stop_tokens == (7, 3)
    assert load_metadata(model(tmp_path, generation={"eos_token_id": [8, 9]}), 3).stop_tokens == (8, 9, 7, 3)
    assert load_metadata(model(tmp_path, generation={"eos_token_id": 7}), 7).stop_tokens == (7,)
    assert load_metadata(model(tmp_path, LLAMA | {"eos_token_id": None}, {}), None).stop_tokens == ()


def test_a_model_of_several_parts_has_them_in_its_text_part_too(tmp_path):
    assert set(load_metadata(model(tmp_path, NESTED), 3).stop_tokens) == {7, 8, 9, 3}


def test_a_family_s_own_id_ends_nothing_where_no_file_says_so(tmp_path):
    silent = {name: value for name, value in LLAMA.items() if name != "eos_token_id"}
    assert load_metadata(model(tmp_path, silent, {"eos_token_id": 8}), None).stop_tokens == (8,)


def test_ids_that_the_model_cannot_choose_end_nothing():
    assert all_stops([None, -1, [5, -1, 5, 32], (6,), 31], vocab_size=32) == (5, 6, 31)


def test_the_sampling_advised_is_the_default(tmp_path):
    expected = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, min_p=0.05, repetition_penalty=1.1)
    assert load_metadata(model(tmp_path, generation=ADVICE), None).sampling_defaults == expected
    some = load_metadata(model(tmp_path, generation={"do_sample": True, "temperature": 0.2}), None).sampling_defaults
    assert some == SamplingParams(temperature=0.2)


@pytest.mark.parametrize("generation", [None, {}, ADVICE | {"do_sample": False}, {"temperature": 0.5}])
def test_without_advice_to_sample_the_defaults_are_openais(tmp_path, generation):
    assert load_metadata(model(tmp_path, generation=generation), None).sampling_defaults == SamplingParams()


def test_the_advice_may_be_left_out(tmp_path):
    assert load_metadata(model(tmp_path, generation=ADVICE), None, "none").sampling_defaults == SamplingParams()
    assert GatewayConfig().sampling_defaults == "generation_config"
    with pytest.raises(ValueError, match="sampling_defaults"):
        GatewayConfig(sampling_defaults="off")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"top_p": 1.5}, "top_p must be between 0 and 1, not 1.5.*gateway.sampling_defaults: none"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_k": True}, "top_k"),
    ],
)
def test_advice_that_cannot_be_names_file_and_field(tmp_path, fields, words):
    with pytest.raises(ModelError, match=f"{tmp_path}: generation_config.json: .*{words}"):
        load_metadata(model(tmp_path, generation={"do_sample": True} | fields), None)


def test_a_file_that_is_there_but_cannot_be_read_is_not_taken_for_none(tmp_path):
    with pytest.raises(ModelError, match=r"generation_config.json: .*JSON"):
        load_metadata(model(tmp_path, generation="{"), None)
