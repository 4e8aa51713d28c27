"""What a rank of a tensor-parallel decoder has of the others: their parts of each sum, by the process group.

Promises: every rank gets the same bytes, in the order of ranks, so that the decoder can add them in that order. What fails in the
middle of a step, such as a rank that is gone, is raised at its end.
"""

import ctypes

import torch
from torch import distributed

GATHER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


class RankLink:
    """`gather` is called by one of the decoder's threads at a time, some of which Python does not know."""

    def __init__(self, rank: int, ranks: int):
        self.rank, self.ranks = rank, ranks
        self.gather = GATHER(self._gather)
        self._failure: BaseException | None = None

    def _gather(self, parts: int, size: int) -> None:
        if self._failure is not None:  # the others no longer stand at the same place
            return
        try:
            every = torch.frombuffer((ctypes.c_byte * (self.ranks * size)).from_address(parts), dtype=torch.uint8)
            pieces = every.split(size)
            distributed.all_gather(list(pieces), pieces[self.rank])
        except BaseException as error:  # fault boundary: nothing can be raised through the library
            self._failure = error

    def check(self) -> None:
        """Raises what went wrong."""
        if self._failure is not None:
            raise self._failure
