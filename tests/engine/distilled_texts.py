"""Texts as `drafthouse distill` has its target write them, for tests: by transformers, with states where they are wanted."""

import pathlib

import numpy as np
import torch
from transformers import PreTrainedModel

from drafthouse.demo_models.training import generate
from drafthouse.distillation.shards import TOP, ShardRecord, Text, write_shard
from drafthouse.distillation.text_folder import shard_path

PROMPT = 6


@torch.no_grad()
def target_texts(model: PreTrainedModel, count: int, length: int, seed: int = 0, states: bool = False) -> list[Text]:
    """Random prompts that the target goes on with, every other at temperature 1."""
    random = torch.Generator().manual_seed(seed)
    prompts = torch.randint(3, model.config.vocab_size, (count, PROMPT), generator=random)
    temperatures = torch.tensor([0.0, 1.0]).repeat(count)[:count]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokens = generate(model, prompts, length - PROMPT, temperatures)
    output = model.model(tokens, use_cache=False).last_hidden_state
    top = (output.to(model.lm_head.weight.dtype) @ model.lm_head.weight.T).float().log_softmax(-1).topk(TOP)
    kept = output.to(torch.bfloat16).view(torch.int16).numpy()
    return [
        Text(
            number=i,
            kind="chat",
            temperature=float(temperatures[i]),
            prompt_len=PROMPT,
            tokens=tokens[i].numpy().astype(np.int32),
            top_ids=top.indices[i].numpy().astype(np.int32),
            top_logprobs=top.values[i].numpy().astype(np.float16),
            states=kept[i] if states else None,
        )  # fmt: skip
        for i in range(count)
    ]


def write_texts(folder: pathlib.Path, texts: list[Text]) -> None:
    """One shard of them."""
    path = shard_path(folder, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(path, texts, ShardRecord(seed=0, next_number=len(texts), seconds=1.0))
