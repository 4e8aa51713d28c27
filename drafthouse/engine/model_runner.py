"""Runs a causal language model on segments: the only place that touches the device.

Promises: `run` writes the KV of all new tokens and returns the logits asked for, rows in the order
of segments and outputs. A segment's result does not depend on the segments beside it, up to
rounding. Weights and KV are in the model's dtype; logits too.
"""

import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from drafthouse.engine.attention.backend import AttentionBackend
from drafthouse.engine.attention.layout import layout_of
from drafthouse.engine.attention.reference import ReferenceAttention
from drafthouse.engine.compiled import CompiledModel
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.model_limits import limits_of
from drafthouse.engine.segment import Segment, chunk


@dataclass(slots=True)
class RunResult:
    """Logits `[sum of outputs, vocab]`, and how long the device worked."""

    logits: torch.Tensor
    seconds: float


@dataclass(frozen=True)
class KvShape:
    """What one layer's attention stores, as the model itself showed it."""

    layers: int
    kv_heads: int
    head_dim: int


class ModelRunner:
    def __init__(self, model: PreTrainedModel, cache: KvCache, compiled: CompiledModel | None = None):
        self.model, self.compiled = model, compiled
        self.cache = cache
        self.attention: AttentionBackend = ReferenceAttention()
        self.vocab_size = limits_of(model.config).vocab_size
        self.attention_calls = 0

    @property
    def ranks(self) -> tuple[int, ...]:
        """Pids of other processes that hold parts of the model; here there is none."""
        return ()

    def close(self) -> None:
        """Lets the other processes go."""

    @torch.inference_mode()
    def run(self, segments: list[Segment]) -> RunResult:
        started = time.perf_counter()
        device = self.cache.data.device
        step = self.attention.begin(self.cache, layout_of(segments))
        tokens = torch.tensor([[t for s in segments for t in s.tokens]], device=device)
        positions = torch.tensor([[p for s in segments for p in s.positions]], device=device)
        wanted, first = [], 0
        for segment in segments:
            wanted += [first + i for i in segment.outputs]
            first += len(segment)
        keep = torch.tensor(wanted, dtype=torch.int64, device=device)
        if self.compiled is not None and self.compiled.fits(tokens.shape[1]):
            logits = self.compiled.run(tokens, positions, keep, step)
        else:
            logits = self.model(
                input_ids=tokens, position_ids=positions, use_cache=False, past_key_values=None,
                logits_to_keep=keep, drafthouse_step=step,
            ).logits[0]  # fmt: skip
        self.attention_calls = step.calls
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return RunResult(logits, time.perf_counter() - started)


def check_device(runner: ModelRunner) -> None:
    """Runs one token of no sequence. Raises what the device raises when it fails without any, and OutOfKvSlots when no slot is free."""
    kv = KvSequence(runner.cache)
    try:
        runner.run([chunk(kv, [0], 0, True)])
    finally:
        kv.release()
