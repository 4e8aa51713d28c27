"""A real model by name: SmolLM2 out of its package, converted, loaded in float32, and its greedy text against transformers' own."""

import pathlib

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.harness.divergence import explain, float64_twin
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig, ServingConfig, TreeConfig
from drafthouse.engine.load_stages import LoadStages
from drafthouse.engine.loader import load
from drafthouse.stages.build import placed
from simulator.one_process import OneProcess
from tests.engine.oracle import greedy
from tests.engine.pairs import FLAT, GREEDY, request
from verifier.engine import VerifierEngine

TOKENS = 24
QUESTIONS = ("What is the capital of France?", "Write a list of the numbers 1 to 9, each on a line of its own.")
TEXTS = {
    "The year 2024 has  3 parts": [504, 713, 216, 34, 32, 34, 36, 553, 256, 35, 2391],
    "x =  2\n    1": [104, 446, 256, 34, 2367, 33],
    "Hello world": [19556, 905],
}
"""Digits one by one, runs of blanks whole: the ids are those of the published tokenizer.json's rules."""


@pytest.fixture(scope="module")
def folder() -> pathlib.Path:
    return pathlib.Path(model_path("smollm2"))


@pytest.fixture(scope="module")
def tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def test_text_becomes_the_tokens_that_the_model_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    assert {text: tokenizer(text)["input_ids"] for text in TEXTS} == TEXTS
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n")
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_greedy_text_is_transformers_own(folder: pathlib.Path, tokenizer: PreTrainedTokenizerBase) -> None:
    said: list[str] = []
    config = ServingConfig(target=ModelConfig(path="smollm2", kv_tokens=1024), draft=None)
    target = load(config.target, LoadStages(said.append))
    assert said[0] == "smollm2: dequantised from Q4_1 (210 tensors), Q8_0 (1 tensors) to float32"
    lookup = placed(config.drafter.stages, "verifier", None, target.runner.vocab_size)
    engine = VerifierEngine(target, FLAT, config.verifier, TreeConfig(), stages=lookup)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    got = OneProcess(engine, []).generate(request(str(i), prompt, TOKENS) for i, prompt in enumerate(prompts))
    assert tokenizer.decode(got["0"]).startswith("The capital of France is Paris.<|im_end|>")
    assert engine.totals.accepted > 0, "prompt lookup drafts"
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for i, prompt in enumerate(prompts):
        wanted = greedy(stock, prompt, TOKENS)
        if got[str(i)] != wanted:
            difference = explain(stock, float64_twin(stock), prompt, GREEDY, 0, got[str(i)], wanted)
            assert difference is not None
            assert difference.explained, difference


def test_bfloat16_is_served_with_unrounded_logits(folder: pathlib.Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Stock kernels err by half a spread there; so may ours."""
    target = load(ModelConfig(path="smollm2", dtype="bfloat16", kv_tokens=256))
    assert target.errors is not None
    assert 0.2 < target.errors.stock.worst < 1.0
    assert target.errors.packed.worst < 2 * target.errors.stock.worst
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True, return_dict=False)
    got = OneProcess(VerifierEngine(target, FLAT, ServingConfig().verifier, TreeConfig()), []).generate([request("a", prompt, 8)])
    assert tokenizer.decode(got["a"]).startswith("The capital of France is Paris.")
