"""Whether a model fits: its heads over the ranks, its weights and KV cache into memory. Said before weights are read.

Promises: what does not fit is a ConfigError with the fields and the arithmetic. Weights are counted on a model
without memory (device `meta`) by transformers' own sharding plan; what a step needs besides is not counted.
"""

import math
import pathlib
import re
from dataclasses import dataclass

import psutil
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.distributed.tensor_parallel import get_kv_heads_per_rank

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.model_limits import ModelLimits, limits_of
from drafthouse.engine.model_runner import KvShape
from drafthouse.engine.native.description import DENSE_FAMILIES
from drafthouse.engine.native.int8 import GROUP
from drafthouse.errors import ConfigError, ModelError

REPLICATED = {"replicate", "replicated_with_grad_allreduce", "all_reduce"}
"""Styles of transformers' plans that leave a weight whole on every rank."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of one rank; `packed` are linears in the layout that a CPU reads, the others are in `weights`."""

    weights: int
    packed: int
    kv: int

    @property
    def total(self) -> int:
        return self.weights + self.packed + self.kv


def check_heads(limits: ModelLimits, parallel: int) -> None:
    """Each rank holds the same number of attention heads and of KV heads. Raises ConfigError."""
    if limits.heads % parallel or limits.kv_heads % parallel:
        common = math.gcd(limits.heads, limits.kv_heads)
        possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise ConfigError(
            f"parallel: {parallel} does not divide {limits.heads} attention heads and {limits.kv_heads} KV heads; it can be {possible}"
        )


def kv_shape(model: PreTrainedModel, parallel: int) -> KvShape:
    """Layers, KV heads of one rank and head size as the config states them; the self-check proves them right."""
    limits = limits_of(model.config)
    if not limits.heads:
        kind = model.config.get_text_config().model_type
        raise ModelError(f"{kind}: self-check: the model has no attention heads; recurrent models cannot verify token trees")
    mine = get_kv_heads_per_rank(model.tp_plan, limits.kv_heads, parallel) if parallel > 1 else limits.kv_heads
    return KvShape(limits.layers, mine, limits.head_dim)


def check_memory(config: ModelConfig, model_config: PretrainedConfig, device: torch.device, head_rows: int | None = None) -> None:
    """Raises ConfigError where weights and KV cache are more than the device has free; ranks on CPUs share one memory. `head_rows`: of a
    head that does not know the whole vocabulary."""
    need, free = memory_need(config, model_config, head_rows), free_bytes(device)
    sharing = config.parallel if device.type == "cpu" else 1
    if need.total * sharing <= free:
        return
    terms = f"weights {_gb(need.weights)}" + (f" + packed linears {_gb(need.packed)}" if need.packed else "")
    terms += f" + KV cache {_gb(need.kv)} ({config.kv_tokens} kv_tokens of {need.kv / config.kv_tokens / 1e3:.4g} kB)"
    ranks = f" for each of {config.parallel} ranks" if config.parallel > 1 else ""
    total = f"{_gb(need.total)}{ranks}" + (f", {_gb(need.total * sharing)} together" if sharing > 1 else "")
    raise ConfigError(
        f"kv_tokens, parallel: not enough memory: {terms} = {total}, and {device.type} has {_gb(free)} free; "
        "lower kv_tokens, or split the model over more devices"
    )


def memory_need(config: ModelConfig, model_config: PretrainedConfig, head_rows: int | None = None) -> MemoryNeed:
    """The native decoder holds each weight once; norms and biases, which it widens to float32, count as nothing beside linears. In
    int8 each group of weights has a scale of two bytes, and norms and biases are float32."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)
        if head_rows is not None:
            model.set_output_embeddings(torch.nn.Linear(limits_of(model_config).hidden_size, head_rows, bias=False))
    plan = model.tp_plan if config.parallel > 1 else {}
    shape = kv_shape(model, config.parallel)
    kv = 2 * shape.layers * shape.kv_heads * shape.head_dim * config.kv_tokens
    if config.dtype == "int8":
        packed = sum(p.numel() for p in model.parameters() if p.ndim == 2)
        others = sum(p.numel() for p in model.parameters() if p.ndim != 2)
        return MemoryNeed(others * 4, packed + packed // GROUP * 2, kv * 2)
    size = getattr(torch, config.dtype).itemsize
    linears: dict[str, int] = {}
    native = model_config.get_text_config().model_type in DENSE_FAMILIES
    if config.device != "cuda" and config.dtype == "float32" and config.parallel == 1 and not native:
        linears = {f"{name}.weight": m.weight.numel() for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    # A head that is tied to the embedding has the embedding's name here, and counts in both: one is packed, one is read by rows.
    others = ((name, weight.numel()) for name, weight in model.named_parameters() if name not in linears)
    numbers = sum(_share(name, count, plan, config.parallel) for name, count in others)
    return MemoryNeed(numbers * size, sum(linears.values()) * size, kv * size)


def _share(name: str, count: int, plan: dict[str, str], parallel: int) -> int:
    """Numbers of a weight that one rank holds; a plan names weights or their modules, with `*` for the layer."""
    generic = re.sub(r"\.\d+(?=\.|$)", ".*", name)
    style = plan.get(generic) or plan.get(generic.rpartition(".")[0])
    return count if style is None or style in REPLICATED else -(-count // parallel)


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on the device: for a CPU of the machine, or of its control group (a container) if less."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    group = pathlib.Path("/sys/fs/cgroup")
    free = psutil.virtual_memory().available
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text()) - _reclaimable(group / "memory.stat")
    except (OSError, ValueError):
        return int(free)
    return int(free if limit == "max" else min(free, int(limit) - used))


def _reclaimable(stat: pathlib.Path) -> int:
    """Page cache in a control group, which gives way."""
    return sum(int(line.split()[1]) for line in stat.read_text().splitlines() if line.split()[0] in ("inactive_file", "active_file"))


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
