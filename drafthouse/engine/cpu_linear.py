"""Linears packed once: on CPUs, float32 `nn.Linear` re-orders its weight at every call.

Promises: same values as `nn.Linear` up to the order of summation, for any number of rows; a weight is held once, in oneDNN's
blocked layout for `PACKED_ROWS` rows. Times: docs/benchmarks.md and docs/models.md.
"""

import torch

PACKED_ROWS = 16
"""Rows that the packed layout is made for: a plain token up to a typical tree."""


class PackedLinear(torch.nn.Module):
    """Takes the place of an `nn.Linear`, and holds none of the other's memory but the bias."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


def pack_linears(model: torch.nn.Module) -> int:
    """Replaces every float32 CPU `nn.Linear` below `model`; returns how many. Subclasses are left alone.

    The weights that stay are copied: as loaded they are views of a mapped file, and while one view lives the pages of all
    that were packed stay in memory.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    packed = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu":
                setattr(module, name, PackedLinear(child))
                packed += 1
    if packed:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    return packed
