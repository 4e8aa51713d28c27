"""A draft while it learns: a few of the target's layers, its norm, some rows of its head, and where it reads states what fuses them.

Promises: embeddings are the target's and stay as they are. Layers are transformers' own modules, so any dense family can be learned.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from drafthouse.checkpoints.model_path import model_path
from drafthouse.distillation.attention import IMPLEMENTATION, Unrolling, register
from drafthouse.distillation.batches import Batch
from drafthouse.distillation.head_loss import Targets, head_loss
from drafthouse.errors import ModelError


def chosen_layers(of_target: int, count: int, hidden: bool) -> list[int]:
    """The target's layers that a draft of `count` begins with: evenly spread from first to last. A single one is the first, which is used
    to embeddings, and the last for a draft that reads what the last one made."""
    if count == 1:
        return [of_target - 1 if hidden else 0]
    return [round(i * (of_target - 1) / (count - 1)) for i in range(count)]


def target_modules(path: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The target in float32, for its weights. Raises ModelError."""
    try:
        return AutoModelForCausalLM.from_pretrained(model_path(path), dtype=torch.float32, trust_remote_code=trust_remote_code)
    except Exception as error:  # fault boundary: transformers and safetensors raise many kinds
        raise ModelError(f"{path}: cannot load the model for its weights: {error}") from error


class DraftNetwork(nn.Module):
    """`base` is the target's decoder cut down to the draft's layers, without embeddings of its own.

    With `hidden` the input of a row is `fuse_embedding @ E[token] + fuse_state @ state`, and `no_state` for the second term where a
    state is not known.
    """

    def __init__(self, target: PreTrainedModel, layers: int, head_ids: torch.Tensor, hidden: bool):
        """Takes the target's modules over: it is of no use afterwards."""
        super().__init__()
        register()
        self.config = target.config
        self.picked = chosen_layers(self.config.num_hidden_layers, layers, hidden)
        self.hidden = hidden
        self.register_buffer("head_ids", head_ids.long(), persistent=False)
        self.head = nn.Parameter(target.lm_head.weight.detach()[self.head_ids].clone())
        base = target.model
        base.layers = nn.ModuleList(base.layers[at] for at in self.picked)
        for index, layer in enumerate(base.layers):
            layer.self_attn.layer_idx = index
        _cut_config(self.config, self.picked)
        base.set_attn_implementation(IMPLEMENTATION)
        self.embeddings = base.embed_tokens.requires_grad_(False)
        base.embed_tokens = nn.Identity()
        self.base = base
        self.input_scale = float(getattr(self.config, "embedding_multiplier", 1.0))
        """By which the family's decoder multiplies its inputs."""
        self.logit_scale = 1.0 / float(getattr(self.config, "logits_scaling", 1.0))
        if hidden:
            size = self.config.hidden_size
            self.fuse_embedding = nn.Parameter(torch.eye(size))
            self.fuse_state = nn.Parameter(torch.eye(size))
            self.no_state = nn.Parameter(torch.zeros(size))

    def learned(self) -> dict[str, torch.Tensor]:
        """What changes in training, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def inputs(self, tokens: torch.Tensor, states: torch.Tensor | None, known: torch.Tensor | None) -> torch.Tensor:
        """`[n, H]`; every state is known where `known` is None."""
        embedded: torch.Tensor = self.embeddings(tokens)
        if not self.hidden:
            return embedded
        assert states is not None
        fused = states @ self.fuse_state.T
        if known is not None:
            fused = torch.where(known[:, None], fused, self.no_state)
        return embedded @ self.fuse_embedding.T + fused / self.input_scale

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Of states `[n, H]`, by rows of the head `[n, N]`."""
        return states @ self.head.T * self.logit_scale

    def loss(self, states: torch.Tensor, targets: Targets) -> torch.Tensor:
        """In nats, mean over rows."""
        return head_loss(states * self.logit_scale, self.head, targets)

    def step(self, inputs: torch.Tensor, positions: torch.Tensor, unrolling: Unrolling) -> torch.Tensor:
        """Output states `[n, H]` after the final norm."""
        arguments: dict[str, Any] = dict(position_ids=positions[None], use_cache=False, unrolling=unrolling)
        output: torch.Tensor = self.base(inputs_embeds=inputs[None], **arguments).last_hidden_state[0]
        return output

    def forward(self, batch: Batch, unrolled: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of step 0 and then `unrolled` more: states `[n, H]`, and int64 `[n]`, which of the batch's targets they are for."""
        unrolling = Unrolling(batch.spans)
        states = self.step(self.inputs(batch.tokens, batch.states, batch.known), batch.positions, unrolling)[batch.rows]
        wanted = torch.arange(len(batch.rows), device=batch.rows.device)
        yield states, wanted
        for step in range(1, unrolled + 1):
            counts = [span.learned(step) for span in batch.spans]
            if not any(counts):
                return
            before = _picked(counts, [span.learned(step - 1) for span in batch.spans], 0)
            wanted = _picked(counts, [span.learned(0) for span in batch.spans], step)
            before, wanted = before.to(states.device), wanted.to(states.device)
            rows = batch.rows[wanted]
            unrolling.step = step
            states = self.step(self.inputs(batch.tokens[rows], states[before], None), batch.positions[rows], unrolling)
            yield states, wanted


def _picked(counts: Sequence[int], sizes: Sequence[int], skipped: int) -> torch.Tensor:
    """Numbers of rows that lie in blocks of `sizes`: of each block `counts` rows after those `skipped`."""
    starts = np.cumsum([0, *sizes])
    parts = [np.arange(count) + start + skipped for start, count in zip(starts, counts, strict=False)]
    return torch.from_numpy(np.concatenate(parts))


def _cut_config(config: PretrainedConfig, picked: Sequence[int]) -> None:
    """What has an entry for each layer keeps those of the layers `picked`."""
    layers = config.num_hidden_layers
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == layers:
            setattr(config, name, [value[at] for at in picked])
    config.num_hidden_layers = len(picked)
    config.tie_word_embeddings = False
