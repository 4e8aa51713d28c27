"""Proves at load time that a forward keeps its promise: a row's bits depend on that row and what it sees alone.

A token tree below a prompt in chunks, beside another sequence, must give the bits that each path gives token by token.
"""

import torch

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.model_runner import ModelRunner
from drafthouse.engine.packed_step import tree_step
from drafthouse.engine.segment import chunk
from drafthouse.errors import ModelError
from drafthouse.token_tree import ROOT, TokenTree

PROMPT = 21


def check_rows(runner: ModelRunner, context: int) -> None:
    """Raises ModelError where a bit differs."""
    generator = torch.Generator().manual_seed(0)
    count = min(PROMPT, context - 4)
    tokens = torch.randint(0, runner.vocab_size, (count + 5,), generator=generator).tolist()
    prompt, drafted = tokens[:count], tokens[count:]
    tree = TokenTree()
    a, b = tree.add(drafted[0], ROOT, 0.5, 0), tree.add(drafted[1], ROOT, 0.5, 0)
    for token, parent in zip(drafted[2:], (a, b, a), strict=True):
        tree.add(token, parent, 0.5, 0)
    packed, beside = KvSequence(runner.cache), KvSequence(runner.cache)
    half = count // 2
    try:
        runner.run([chunk(packed, prompt[:half], 0, False)])
        runner.run([chunk(packed, prompt[half:-1], half, False), chunk(beside, prompt[:3], 0, True)])
        found = runner.run([chunk(beside, prompt[3:7], 3, True), tree_step(packed, prompt[-1], tree)]).logits[1:]
    finally:
        packed.release()
        beside.release()
    for row, right in zip(found, _one_by_one(runner, prompt, [[], *(tree.path(node) for node in range(len(tree)))]), strict=True):
        if not torch.equal(row, right):
            raise ModelError("self-check: a row's bits depend on what stands beside it, although its kernels promise that they do not")


def _one_by_one(runner: ModelRunner, prompt: list[int], paths: list[list[int]]) -> list[torch.Tensor]:
    """Logits after the prompt and each path, token by token."""
    kv, rows = KvSequence(runner.cache), list[torch.Tensor]()
    try:
        for position, token in enumerate(prompt[:-1]):
            runner.run([chunk(kv, [token], position, False)])
        for path in paths:
            for token in prompt[-1:] + path:
                logits = runner.run([chunk(kv, [token], len(kv), True)]).logits
            rows.append(logits[0].clone())
            kv.truncate(len(prompt) - 1)
        return rows
    finally:
        kv.release()
