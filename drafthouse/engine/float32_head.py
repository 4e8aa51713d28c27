"""The output layer with float32 logits from weights of 16 bits.

Promises: a logit is a sum in float32 of products of the weights as they are, and is never rounded to
16 bits. Rounded logits tie with each other, in 2 % of positions of the demo target in bfloat16. No
second copy of the weights is held.
"""

import torch
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel

HALVES = (torch.bfloat16, torch.float16)

BLOCK_BYTES = 1 << 20
"""A CPU widens this much of the weight at a time, so that it is multiplied out of the second-level cache. Measured in
docs/exactness.md: blocks of 2 MB and more take longer, and the whole weight at once several times as long."""


def float32_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x weight'` in float32 for x `[N, K]` and weight `[M, K]` of 16 bits: `[N, M]`."""
    if x.device.type == "cuda":
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    wide, out = x.float(), torch.empty(len(x), len(weight))
    rows = max(1, BLOCK_BYTES // (4 * weight.shape[1]))
    block = torch.empty(min(rows, len(weight)), weight.shape[1])
    for first in range(0, len(weight), rows):
        part = weight[first : first + rows]
        out[:, first : first + rows] = wide @ block[: len(part)].copy_(part).t()
    return out


class Float32Head(torch.nn.Module):
    """Takes the place of an `nn.Linear` and holds its parameters, which may be an embedding's too, or a rank's share."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.out_features = linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x `[..., K]` to float32 `[..., out_features]`."""
        if isinstance(self.weight, DTensor):
            return self._of_all_ranks(x, self.weight)
        return self._local(x, self.weight, self.bias)

    def _local(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = float32_product(rows, weight).reshape(*x.shape[:-1], len(weight))
        return out if bias is None else out + bias.float()

    def _of_all_ranks(self, x: torch.Tensor, weight: DTensor) -> torch.Tensor:
        """Each rank holds some rows of the weight and gets the logits of all."""
        assert weight.placements == (Shard(0),), f"the output layer is split over ranks in another way: {weight.placements}"
        bias = self.bias.to_local() if isinstance(self.bias, DTensor) else self.bias
        mine = self._local(x, weight.to_local(), bias)
        shape = (*x.shape[:-1], self.out_features)
        strides = torch.empty(shape, device="meta").stride()
        shared = DTensor.from_local(mine, weight.device_mesh, [Shard(-1)], run_check=False, shape=torch.Size(shape), stride=strides)
        whole: torch.Tensor = shared.full_tensor()
        return whole


def widen_head(model: PreTrainedModel) -> bool:
    """Puts a Float32Head in the place of an output layer of 16 bits; whether it did. Other kinds than `nn.Linear` are left alone."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype not in HALVES:
        return False
    model.set_output_embeddings(Float32Head(head))
    return True
