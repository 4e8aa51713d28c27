"""How long a step of the target and a pass of its draft take on this machine."""

import pathlib
from dataclasses import dataclass

from drafthouse.config.serving import ModelConfig
from drafthouse.distillation.options import DistillOptions
from drafthouse.engine.loader import load
from drafthouse.engine.profiling import latency_of
from drafthouse.policy.latency import LatencyModel

LARGEST, KV_TOKENS = 64, 4096


@dataclass(frozen=True, slots=True)
class Latencies:
    target: LatencyModel
    draft: LatencyModel


def target_latency(options: DistillOptions) -> LatencyModel:
    """In the dtype that it wrote with. Raises ConfigError, ModelError."""
    return _latency(options.target_config(KV_TOKENS))


def draft_latency(options: DistillOptions, folder: pathlib.Path) -> LatencyModel:
    """Raises ConfigError, ModelError."""
    return _latency(
        ModelConfig(
            path=str(folder), dtype=options.dtype, device=options.device, threads=options.threads, kv_tokens=KV_TOKENS,
            trust_remote_code=options.trust_remote_code,
        )
    )  # fmt: skip


def _latency(config: ModelConfig) -> LatencyModel:
    model = load(config)
    try:
        return latency_of(model, LARGEST)
    finally:
        model.runner.close()
