"""The model under `torch.compile`, one graph for each token count of a few.

Promises: same results as the eager model up to rounding. A step is padded to the next token count
with copies of its last token, whose KV goes to a scratch slot and whose logits are dropped;
steps longer than the largest count run eagerly. Attention stays outside the graphs as one opaque
operator per layer, since its shapes change with every step.
"""

import itertools
import weakref

import torch
import torch._dynamo
from transformers import PreTrainedModel

from drafthouse.engine.attention.backend import AttentionStep

TOKEN_COUNTS = (1, 2, 4, 8, 12, 16, 24, 32)
"""Each costs a compilation."""

_models: "weakref.WeakValueDictionary[int, CompiledModel]" = weakref.WeakValueDictionary()
"""Which model an operator inside a graph belongs to: graphs hold numbers, not objects."""
_numbers = itertools.count()


@torch.library.custom_op("drafthouse::attend", mutates_args=())
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, model: int, layer: int, scaling: float | None,
    window: int | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    step = _models[model].step
    assert step is not None
    return step.attend(layer, query[0], key[0], value[0], scaling, window, softcap)[None].contiguous()


@_attend.register_fake
def _(query, key, value, model, layer, scaling, window, softcap):  # type: ignore[no-untyped-def]
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def attend_in_graph(
    model: int, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None,
    window: int | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    """What the registered attention function becomes while a graph is traced."""
    out: torch.Tensor = _attend(query, key, value, model, layer, scaling, window, softcap)
    return out


class CompiledModel:
    """Calls like the model itself, for one flattened row of tokens."""

    def __init__(self, model: PreTrainedModel):
        # All models share the frame of transformers' forward, whose limit counts every graph of every model.
        torch._dynamo.config.recompile_limit += len(TOKEN_COUNTS)
        torch._dynamo.config.accumulated_recompile_limit += len(TOKEN_COUNTS)
        self.number = next(_numbers)
        _models[self.number] = self
        self.step: AttentionStep | None = None
        self._graph = torch.compile(model, dynamic=False)

    @staticmethod
    def fits(tokens: int) -> bool:
        return tokens <= TOKEN_COUNTS[-1]

    def run(self, tokens: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        """Logits `[len(keep), vocab]` for tokens and positions `[1, T]`."""
        count = tokens.shape[1]
        padding = next(n for n in TOKEN_COUNTS if n >= count) - count
        if padding:
            tokens = torch.nn.functional.pad(tokens, (0, padding), value=0)
            positions = torch.nn.functional.pad(positions, (0, padding), value=0)
        self.step = step
        try:
            logits: torch.Tensor = self._graph(
                input_ids=tokens, position_ids=positions, use_cache=False, past_key_values=None, drafthouse_model=self.number
            ).logits[0]
        finally:
            self.step = None
        return logits if len(keep) == logits.shape[0] else logits.index_select(0, keep)
