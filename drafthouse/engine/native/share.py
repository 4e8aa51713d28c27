"""A rank's share of a model's weights: attention heads, columns of the MLP and tokens of the vocabulary.

Promises: what a rank gets of a weight is one contiguous piece along one dimension, the pieces lie in the order of ranks, and no rank
holds more than one whole weight at a time. Weights that transformers has sharded already in this way are taken as they lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor, Shard


@dataclass(frozen=True, slots=True)
class Share:
    """Rank `rank` of `ranks`; by default all of the model."""

    rank: int = 0
    ranks: int = 1

    def rows(self, weight: torch.Tensor, blocks: Sequence[int] = ()) -> list[torch.Tensor]:
        """By output, of each of the blocks that the weight or bias is stacked from; with one rank it stays one."""
        weight = weight.detach()
        if self.ranks == 1:
            return [weight]
        if len(blocks) < 2:
            return [self._piece(weight, 0)]
        return [self._copied(block, 0) for block in whole(weight).split(list(blocks))]

    def columns(self, weight: torch.Tensor) -> torch.Tensor:
        """By input."""
        return self._piece(weight.detach(), 1)

    def _piece(self, weight: torch.Tensor, dim: int) -> torch.Tensor:
        if self.ranks == 1:
            return weight
        if isinstance(weight, DTensor) and weight.placements == (Shard(dim),):
            return weight.to_local()
        return self._copied(whole(weight), dim)

    def _copied(self, gathered: torch.Tensor, dim: int) -> torch.Tensor:
        """A view would keep all of it."""
        return gathered.chunk(self.ranks, dim)[self.rank].clone()


def whole(weight: torch.Tensor) -> torch.Tensor:
    """All of it, from all ranks if it is shared out; they must ask in the same order."""
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
