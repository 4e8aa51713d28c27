"""Trains the demo target and distils the demo draft from text that the target generated.

Promises: a run is a function of (corpus, step counts, seed) up to floating-point order. The
schedule is warm-up, constant, then a linear decay over the last third (arXiv 2405.18392);
matrices are trained by Muon, the embedding and norms by AdamW.
"""

import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress, TaskID
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from drafthouse.demo_models.tokens import CONTEXT, VOCAB_SIZE

WARM_UP_STEPS = 50
DECAY_SHARE = 0.33
MUON_RATE, ADAM_RATE = 0.012, 0.004
ROWS_PER_STEP = 8
CHECKPOINT_STEPS = 200
SHORT_SHARE = 0.67
"""This share of the target's training, from its start, sees half the context, where attention costs half."""

TARGET_SHAPE = dict(hidden_size=256, intermediate_size=896, num_hidden_layers=10, num_attention_heads=4, num_key_value_heads=2)
DRAFT_SHAPE = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=1)


@dataclass(frozen=True)
class Loss:
    """One optimiser step: its index and mean loss in nats per token."""

    step: int
    value: float


def build(shape: dict[str, int], seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, rms_norm_eps=1e-5, **shape,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Optimiser:
    """Muon for hidden matrices, AdamW for the rest, one schedule for both."""

    def __init__(self, model: LlamaForCausalLM, steps: int):
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.05, adjust_lr_fn=None), MUON_RATE),
            (torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True), ADAM_RATE),
        ]
        self.parameters = list(model.parameters())
        self.steps = steps

    def rate(self, step: int) -> float:
        """Share of the full learning rate at a step."""
        decay_from = self.steps * (1 - DECAY_SHARE)
        return min(1.0, (step + 1) / WARM_UP_STEPS, max(0.02, (self.steps - step) / (self.steps - decay_from)))

    def step(self, step: int) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, full in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = full * self.rate(step)
            optimiser.step()
            optimiser.zero_grad()


def batches(rows: np.ndarray, steps: int, rows_per_step: int = ROWS_PER_STEP) -> Iterator[torch.Tensor]:
    """`steps` batches `[rows_per_step, CONTEXT + 1]` in order, starting over when the rows run out."""
    for step in range(steps):
        picked = np.arange(step * rows_per_step, (step + 1) * rows_per_step) % len(rows)
        yield torch.from_numpy(rows[picked].astype(np.int64))


def halve(batch: torch.Tensor) -> torch.Tensor:
    """`[B, 2T + 1]` to `[2B, T + 1]`: the halves share the token between them."""
    half = (batch.shape[1] - 1) // 2
    return torch.cat([batch[:, : half + 1], batch[:, half:]])


def train_target(rows: np.ndarray, steps: int, folder: pathlib.Path, progress: Progress) -> LlamaForCausalLM:
    """Trains on the last `steps x ROWS_PER_STEP` rows, so that a short run still ends on the standard library."""
    model = build(TARGET_SHAPE)
    rows_in_order = batches(rows[-steps * ROWS_PER_STEP :], steps)

    def loss_of(step: int) -> torch.Tensor:
        batch = next(rows_in_order)
        batch = batch if step >= SHORT_SHARE * steps else halve(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    return _train("target", model, steps, loss_of, folder, progress)


def _train(
    name: str, model: LlamaForCausalLM, steps: int, loss_of: Callable[[int], torch.Tensor], folder: pathlib.Path, progress: Progress
) -> LlamaForCausalLM:
    """Takes one optimiser step on the loss of each step, and saves the model to `folder` now and then, and at the end."""
    optimiser = Optimiser(model, steps)
    task = progress.add_task(name, total=steps)
    for step in range(steps):
        loss = loss_of(step)
        loss.backward()
        optimiser.step(step)
        _report(progress, task, Loss(step, loss.item()))
        if (step + 1) % CHECKPOINT_STEPS == 0:
            model.save_pretrained(folder)
    model.save_pretrained(folder)
    return model.eval()


def _report(progress: Progress, task: TaskID, loss: Loss) -> None:
    progress.update(task, advance=1, description=f"{progress.tasks[task].description.split()[0]} loss {loss.value:.3f}")
    if loss.step % 50 == 0:
        progress.console.print(f"step {loss.step} loss {loss.value:.3f}", highlight=False)


@torch.no_grad()
def generate(model: LlamaForCausalLM, prompts: torch.Tensor, length: int, temperature: torch.Tensor) -> torch.Tensor:
    """Continues prompts `[B, P]` by `length` tokens at temperatures `[B]` (0 is greedy): ids `[B, P + length]`."""
    cache, x, out = DynamicCache(), prompts, [prompts]
    for _ in range(length):
        logits = model(x, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        gumbel = -torch.log(-torch.log(torch.rand_like(logits).clamp_min(1e-20)))
        x = (logits + gumbel * temperature[:, None]).argmax(-1, keepdim=True)
        out.append(x)
    return torch.cat(out, 1)


def self_generated(target: LlamaForCausalLM, rows: np.ndarray, count: int, progress: Progress, batch: int = 256) -> np.ndarray:
    """Rows `[count, 257]`: 64 tokens of training text, continued by the target; a third greedy, the rest at 0.5 to 1."""
    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    out = []
    for _ in progress.track(range(-(-count // batch)), description="text of the target"):
        starts = rng.integers(0, CONTEXT - 64, batch)
        prompts = np.stack([rows[i, s : s + 64] for i, s in zip(rng.integers(0, len(rows), batch), starts, strict=True)])
        temperature = torch.rand(batch) * 0.5 + 0.5
        temperature[: batch // 3] = 0.0
        out.append(generate(target, torch.from_numpy(prompts.astype(np.int64)), 193, temperature).numpy())
    return np.concatenate(out)[:count].astype(np.uint16)


def distil_draft(
    target: LlamaForCausalLM, rows: np.ndarray, own: np.ndarray, steps: int, folder: pathlib.Path, progress: Progress
) -> LlamaForCausalLM:
    """Minimises KL(target || draft) at every position: one step in four on corpus rows (which
    teach long contexts), the rest on the target's own text `own`. arXiv 2310.08461 on why."""
    model = build(DRAFT_SHAPE, seed=1)
    corpus_batches = batches(rows[-steps:], steps, ROWS_PER_STEP)
    order = np.random.default_rng(3).permutation(len(own))
    own_batches = batches(own[order], steps, ROWS_PER_STEP * 4)

    def loss_of(step: int) -> torch.Tensor:
        batch = next(corpus_batches if step % 4 == 0 else own_batches)[:, :-1]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            teacher = target(input_ids=batch, use_cache=False).logits.float().log_softmax(-1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch, use_cache=False).logits
        student = logits.float().log_softmax(-1)
        return torch.nn.functional.kl_div(student.flatten(0, 1), teacher.flatten(0, 1), log_target=True, reduction="batchmean")

    return _train("draft", model, steps, loss_of, folder, progress)
