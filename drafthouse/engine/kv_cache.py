"""KV slots: one slot holds keys and values of one token in every layer.

Promises: a slot is owned by exactly one sequence; a sequence's entries are its slot table, in any order of slots (page size 1).
Accepting a tree path edits the table: nothing is copied.
"""

import math
import mmap
from array import array
from collections.abc import Sequence

import torch

from drafthouse.errors import OutOfKvSlots


class SlotAllocator:
    """Free slots, the last freed first. Pure Python."""

    def __init__(self, count: int):
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._is_free = bytearray(b"\1") * count

    @property
    def free_count(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` slots. Raises OutOfKvSlots, taking nothing."""
        if count > len(self._free):
            raise OutOfKvSlots(f"{count} KV slots asked for, {len(self._free)} of {self.count} are free")
        if count == 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        taken.reverse()
        for slot in taken:
            self._is_free[slot] = 0
        return taken

    def free(self, slots: Sequence[int]) -> None:
        for slot in reversed(slots):
            assert not self._is_free[slot], "a slot was freed twice"
            self._is_free[slot] = 1
            self._free.append(slot)

    def check_integrity(self) -> None:
        """Raises AssertionError unless the list of free slots holds each free slot once."""
        assert len(self._free) == len(set(self._free)) == sum(self._is_free)
        assert all(self._is_free[slot] for slot in self._free)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU, memory that the system gives page by page as slots are first written: slots that are never used cost none."""
    if device.type != "cpu" or 0 in shape:  # of a drafter without a model
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class KvCache:
    """Keys and values of all layers, `[layers, 2, kv_heads, slots, head_dim]`, and which slots are free."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, slots: int, dtype: torch.dtype, device: torch.device):
        self.data = _zeros((layers, 2, kv_heads, slots, head_dim), dtype, device)
        self.allocator = SlotAllocator(slots)


class SlotTable:
    """What attention reads of a sequence, fixed at one moment: entry `i` lies in slot `slots[i]`."""

    def __init__(self, slots: "array[int]"):
        self.slots = array("i", slots)

    def __len__(self) -> int:
        return len(self.slots)


class KvSequence:
    """The KV entries of one sequence, in order: entry `i` lies in slot `slots[i]`."""

    def __init__(self, cache: KvCache):
        self.cache = cache
        self.slots = array("i")

    def __len__(self) -> int:
        return len(self.slots)

    def extend(self, count: int) -> None:
        """Appends `count` entries; their content is undefined until a step writes it. Raises OutOfKvSlots."""
        self.slots.extend(self.cache.allocator.allocate(count))

    def truncate(self, length: int) -> None:
        """Frees all entries from `length` on."""
        if length < len(self.slots):
            self.cache.allocator.free(self.slots[length:])
            del self.slots[length:]

    def keep(self, prefix: int, kept: Sequence[int]) -> None:
        """Keeps the first `prefix` entries and then the entries `kept` (ascending, each >= prefix); frees the rest."""
        slots = [self.slots[entry] for entry in kept]
        mine = set(kept)
        self.cache.allocator.free([self.slots[entry] for entry in range(prefix, len(self.slots)) if entry not in mine])
        self.slots[prefix:] = array("i", slots)

    def cut(self, prefix: int, count: int) -> None:
        """Frees the `count` entries after the first `prefix`."""
        self.cache.allocator.free(self.slots[prefix : prefix + count])
        del self.slots[prefix : prefix + count]

    def release(self) -> None:
        self.truncate(0)
