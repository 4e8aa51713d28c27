"""What the text must be, computed the slow and obvious way: the oracle of the engine's tests.

Promises: nothing here shares code with the engine. `greedy` is transformers' own `generate`;
`sampled` runs the whole sequence anew for each token and asks `drafthouse.choose` for one row.
Neither stops at an end-of-text token.
"""

import copy
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from drafthouse.choose import Rows, choose
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import SamplingParams


def greedy(model: PreTrainedModel, prompt_ids: Sequence[int], n: int) -> list[int]:
    """The `n` tokens that transformers' `generate` puts after the prompt. The model keeps its own settings."""
    twin = copy.copy(model)  # shares the weights; its generation settings (end-of-text, penalties) start empty
    twin.generation_config = GenerationConfig()
    prompt = torch.tensor([list(prompt_ids)], device=model.device)
    with torch.inference_mode():
        output = twin.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, do_sample=False)
    tokens: list[int] = output[0, prompt.shape[1] :].tolist()
    assert len(tokens) == n
    return tokens


def next_logits(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """Logits `[1, vocab]` after `tokens`, without any cache."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([list(tokens)], device=model.device), use_cache=False).logits[:, -1]
    return logits


def sampled(
    model: PreTrainedModel, prompt: Sequence[int], sampling: SamplingParams, seed: int, n: int, stop_tokens: Sequence[int] = ()
) -> list[int]:
    """The `n` tokens after the prompt under `sampling` and `seed`: one full forward pass for each."""
    tokens = list(prompt)
    for position in range(len(prompt), len(prompt) + n):
        logits = next_logits(model, tokens)
        processors = processors_of(sampling, prompt, tokens[len(prompt) :], stop_tokens, logits.shape[1])
        tokens += choose(logits, [Rows(sampling, seed, [position], processors=processors)])
    return tokens[len(prompt) :]
