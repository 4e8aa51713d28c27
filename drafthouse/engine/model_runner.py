"""Runs a causal language model on segments, and times it.

Promises: `run` writes the KV of all new tokens and returns the logits and states asked for, rows in the order
of segments and outputs. A segment's result does not depend on the segments beside it, up to
rounding, and on a row-invariant forward not at all. KV is in the model's dtype.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from drafthouse.engine.forward import Forward
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.segment import Segment, chunk


@dataclass(slots=True)
class RunResult:
    """Logits `[sum of outputs, vocab]`, how long the device worked, and the last hidden states that were asked for, `[sum of states,
    hidden]`."""

    logits: torch.Tensor
    seconds: float
    states: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))


@dataclass(frozen=True)
class KvShape:
    """What one layer's attention stores, as the model itself showed it."""

    layers: int
    kv_heads: int
    head_dim: int


class ModelRunner:
    """Times what `forward` computes; the cache is where its keys and values go."""

    def __init__(self, forward: Forward, cache: KvCache):
        self.forward, self.cache = forward, cache
        self.vocab_size = forward.vocab_size

    @property
    def ranks(self) -> tuple[int, ...]:
        """Pids of other processes that hold parts of the model; here there is none."""
        return ()

    def close(self) -> None:
        """Lets the other processes and threads go."""
        self.forward.close()

    @torch.inference_mode()
    def run(self, segments: Sequence[Segment]) -> RunResult:
        started = time.perf_counter()
        logits, states = self.forward.run(segments, self.cache)
        if self.cache.data.device.type == "cuda":
            torch.cuda.synchronize(self.cache.data.device)
        return RunResult(logits, time.perf_counter() - started, states)


def check_device(runner: ModelRunner) -> None:
    """Runs one token of no sequence. Raises what the device raises when it fails without any, and OutOfKvSlots when no slot is free."""
    kv = KvSequence(runner.cache)
    try:
        runner.run([chunk(kv, [0], 0, True)])
    finally:
        kv.release()
