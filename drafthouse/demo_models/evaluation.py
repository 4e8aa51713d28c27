"""What the model card says about the demo pair, measured on held-out files.

Promises: numbers are those of the weights that ship (rounded to half precision, computed in float32).
Agreement is teacher-forced: at every position of the target's own text, whether the draft's first
choice is the target's token.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from drafthouse.choose import Rows, choose, scores
from drafthouse.demo_models.prompts import MIN_TOKENS, HeldOutPrompt
from drafthouse.sampling import SamplingParams

NEW_TOKENS = 128
REPEAT_LENGTH = 8
LOSS_ROWS = 256
"""Rows of 1,024 predictions, evenly spaced, from which a held-out loss is taken."""
SEED = 20
SPEED_CONTEXT, SPEED_TOKENS, SPEED_ROUNDS = 256, 64, 7
SAMPLES, SAMPLE_TEMPERATURE = 3, 0.8

GREEDY, SAMPLED = SamplingParams(temperature=0.0), SamplingParams(temperature=1.0)


@dataclass(frozen=True)
class Agreement:
    """Shares of the target's tokens that are the draft's first choice, or among its first four."""

    first: float
    among_four: float


@dataclass(frozen=True)
class Sample:
    file: str
    prompt: str
    greedy: str
    sampled: str


@dataclass(frozen=True)
class Evaluation:
    """`shared` ranks with the target's noise at temperature 1, `own` by the draft's own logits there.

    Losses are in nats per token; `repetition` is the share of the greedy text's 8-grams that occurred
    before in the same text; `*_ms` is one token of one sequence in transformers with its cache.
    """

    target_parameters: int
    draft_parameters: int
    target_loss: dict[str, float]
    draft_loss: dict[str, float]
    repetition: float
    greedy: Agreement
    shared: Agreement
    own: Agreement
    target_ms: float
    draft_ms: float
    samples: list[Sample]


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, rows: np.ndarray) -> float:
    """Mean cross-entropy over at most LOSS_ROWS evenly spaced rows `[N, CONTEXT + 1]`."""
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), LOSS_ROWS)).round().astype(int)]
    total = 0.0
    for i in range(0, len(picked), 8):
        batch = torch.from_numpy(picked[i : i + 8].astype(np.int64))
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (len(picked) * (picked.shape[1] - 1))


def _rows(count: int, position: int, sampling: SamplingParams) -> list[Rows]:
    """One row for each text, with a seed of its own."""
    return [Rows(sampling, SEED + i, [position]) for i in range(count)]


@torch.no_grad()
def continue_text(model: PreTrainedModel, prompts: torch.Tensor, sampling: SamplingParams, length: int = NEW_TOKENS) -> torch.Tensor:
    """Prompts `[B, P]` with `length` tokens more, chosen as the engine chooses them: ids `[B, P + length]`."""
    cache, ids = DynamicCache(), prompts
    for position in range(prompts.shape[1], prompts.shape[1] + length):
        new = ids if position == prompts.shape[1] else ids[:, -1:]
        logits = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        chosen = torch.tensor(choose(logits, _rows(len(ids), position, sampling)))
        ids = torch.cat([ids, chosen[:, None]], 1)
    return ids


@torch.no_grad()
def agreement(draft: PreTrainedModel, ids: torch.Tensor, prompt_length: int, sampling: SamplingParams) -> Agreement:
    """How the draft ranks the target's tokens in texts `[B, T]`, up to the first end of text in each."""
    logits = draft(input_ids=ids[:, :-1], use_cache=False).logits
    ended = (ids[:, prompt_length:] == draft.config.eos_token_id).cumsum(1)
    first, among_four, count = 0, 0, 0
    for position in range(prompt_length, ids.shape[1]):
        top = scores(logits[:, position - 1], _rows(len(ids), position, sampling)).topk(4).indices
        hits = top == ids[:, position, None]
        counted = ended[:, position - prompt_length] - (ids[:, position] == draft.config.eos_token_id).long() == 0
        first += int(hits[counted, 0].sum())
        among_four += int(hits[counted].sum())
        count += int(counted.sum())
    return Agreement(first / count, among_four / count)


def repetition(texts: list[list[int]]) -> float:
    """Share of 8-grams that occurred before in the same text."""
    repeated = total = 0
    for text in texts:
        grams = [tuple(text[i : i + REPEAT_LENGTH]) for i in range(len(text) - REPEAT_LENGTH + 1)]
        repeated += len(grams) - len(set(grams))
        total += len(grams)
    return repeated / max(1, total)


@torch.no_grad()
def _token_ms(model: PreTrainedModel, context: torch.Tensor) -> float:
    cache = DynamicCache()
    model(context, past_key_values=cache, use_cache=True, logits_to_keep=1)
    started = time.perf_counter()
    for _ in range(SPEED_TOKENS):
        model(context[:, -1:], past_key_values=cache, use_cache=True)
    return (time.perf_counter() - started) / SPEED_TOKENS * 1e3


def token_ms(target: PreTrainedModel, draft: PreTrainedModel) -> tuple[float, float]:
    """Medians of interleaved rounds, so that other load on the machine meets both alike."""
    context = torch.arange(SPEED_CONTEXT)[None, :] % target.config.vocab_size
    rounds = [(_token_ms(target, context), _token_ms(draft, context)) for _ in range(SPEED_ROUNDS)]
    return statistics.median(r[0] for r in rounds), statistics.median(r[1] for r in rounds)


def _samples(tokenizer: PreTrainedTokenizerFast, target: PreTrainedModel, prompts: list[HeldOutPrompt]) -> list[Sample]:
    sampling = SamplingParams(temperature=SAMPLE_TEMPERATURE)
    samples = []
    for prompt in prompts[:: max(1, len(prompts) // SAMPLES)][:SAMPLES]:
        ids = torch.tensor([tokenizer.encode(prompt.text, add_special_tokens=False)])
        texts = [tokenizer.decode(continue_text(target, ids, s)[0, ids.shape[1] :]) for s in (GREEDY, sampling)]
        samples.append(Sample(prompt.file, prompt.text, *texts))
    return samples


def evaluate(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[HeldOutPrompt],
    held_out: dict[str, np.ndarray],
) -> Evaluation:
    """`held_out` names sets of rows `[N, CONTEXT + 1]`; models are in float32, in eval mode, on the CPU."""
    ids = torch.tensor([tokenizer.encode(p.text, add_special_tokens=False)[-MIN_TOKENS:] for p in prompts])
    greedy, sampled = continue_text(target, ids, GREEDY), continue_text(target, ids, SAMPLED)
    target_ms, draft_ms = token_ms(target, draft)
    return Evaluation(
        target_parameters=sum(p.numel() for p in target.parameters()),
        draft_parameters=sum(p.numel() for p in draft.parameters()),
        target_loss={name: held_out_loss(target, rows) for name, rows in held_out.items()},
        draft_loss={name: held_out_loss(draft, rows) for name, rows in held_out.items()},
        repetition=repetition(greedy[:, MIN_TOKENS:].tolist()),
        greedy=agreement(draft, greedy, MIN_TOKENS, GREEDY),
        shared=agreement(draft, sampled, MIN_TOKENS, SAMPLED),
        own=agreement(draft, sampled, MIN_TOKENS, GREEDY),
        target_ms=target_ms,
        draft_ms=draft_ms,
        samples=_samples(tokenizer, target, prompts),
    )
