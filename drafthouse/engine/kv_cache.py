"""KV slots: one slot holds keys and values of one token in every layer.

Promises: a slot is free, owned by exactly one sequence, or the prefix cache's; a sequence's entries are its slot table, in any order
of slots (page size 1). Accepting a tree path edits the table: nothing is copied. What the prefix cache has is never written:
a sequence that starts with it holds a lease, and can drop none of it but all.
"""

import math
import mmap
from array import array
from collections.abc import Sequence

import numpy as np
import torch

from drafthouse.engine.prefix_cache import Lease, PrefixCache
from drafthouse.errors import OutOfKvSlots

FREED_TWICE = "a slot was freed twice"

MANY = 16
"""From so many slots on numpy is quicker than a loop."""


class SlotAllocator:
    """Free slots, the last freed first. Pure Python. With `prefixes`, what only the prefix cache holds is as good as free."""

    def __init__(self, count: int):
        self.count = count
        self.prefixes: PrefixCache | None = None
        self._free = array("i", range(count - 1, -1, -1))
        self._is_free = bytearray(b"\1") * count
        self._flags = np.frombuffer(self._is_free, dtype=bool)  # the same bytes, for many slots at once

    @property
    def free_count(self) -> int:
        """Slots that `allocate` can give."""
        return len(self._free) + self.cached_count

    @property
    def cached_count(self) -> int:
        """Of these, slots that the prefix cache holds until they are needed."""
        return self.prefixes.idle_count if self.prefixes is not None else 0

    def allocate(self, count: int) -> "array[int]":
        """`count` slots, for which cached prefixes give way. Raises OutOfKvSlots, taking nothing."""
        if count > self.free_count:
            raise OutOfKvSlots(f"{count} KV slots asked for, {self.free_count} of {self.count} are free")
        if count == 0:
            return array("i")
        if self.prefixes is not None and count > len(self._free):
            self.free(self.prefixes.evict(count - len(self._free)))
        taken = self._free[-count:]
        del self._free[-count:]
        taken.reverse()
        self._mark(taken, False)
        return taken

    def free(self, slots: Sequence[int]) -> None:
        """The first of them is the next to be given again."""
        returned = array("i", slots)
        self._mark(returned, True)
        returned.reverse()
        self._free.extend(returned)

    def _mark(self, slots: "array[int]", free: bool) -> None:
        """All of them were the other way before."""
        if len(slots) < MANY:
            for slot in slots:
                assert self._is_free[slot] != free, FREED_TWICE
                self._is_free[slot] = free
        else:
            assert not (self._flags[slots] == free).any(), FREED_TWICE
            self._flags[slots] = free

    def forget_prefixes(self) -> None:
        """Frees all that only the prefix cache holds, as when it may be spoilt."""
        if self.prefixes is not None:
            self.free(self.prefixes.evict(self.cached_count))

    def check_integrity(self) -> None:
        """Raises AssertionError unless the list of free slots holds each free slot once, and the prefix cache none of them."""
        assert len(self._free) == len(set(self._free)) == self._flags.sum()
        assert all(self._is_free[slot] for slot in self._free)
        if self.prefixes is not None:
            self.prefixes.check_integrity()
            assert not any(self._is_free[slot] for slot in self.prefixes.slots())


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

    def share_prefixes(self) -> None:
        """From now on sequences give the prefix cache what they have computed, and start with what it has."""
        self.allocator.prefixes = PrefixCache()


class SlotTable:
    """What attention reads of a sequence, fixed at one moment: entry `i` lies in slot `slots[i]`."""

    def __init__(self, slots: "array[int]"):
        self.slots = array("i", slots)

    def __len__(self) -> int:
        return len(self.slots)


class KvSequence:
    """The KV entries of one sequence, in order: entry `i` lies in slot `slots[i]`. The first `shared` ones are the prefix cache's.
    Only sequences of the same `key` share any."""

    def __init__(self, cache: KvCache, key: str = ""):
        self.cache, self.key = cache, key
        self.slots = array("i")
        self._lease: Lease | None = None

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def shared(self) -> int:
        return self._lease.length if self._lease is not None else 0

    def adopt(self, tokens: Sequence[int]) -> None:
        """Starts an empty sequence with what the prefix cache has of `tokens`, at most all but the last one."""
        if (prefixes := self.cache.allocator.prefixes) is not None:
            assert not self.slots
            self.release()
            self._lease, self.slots = prefixes.match(tokens, self.key)

    def share(self, tokens: Sequence[int]) -> None:
        """Gives the first entries, as many as there are `tokens`, to the prefix cache, and goes on with a lease on them. They hold
        just these tokens, and no step writes them again. Of what is cached already the own slots are freed."""
        prefixes = self.cache.allocator.prefixes
        if prefixes is None:
            return
        if self._lease is None:
            self._lease, _ = prefixes.match((), self.key)
        first, end = self.shared, min(len(tokens), len(self.slots))
        if end > first:
            mine = self.slots[first:end]
            self.slots[first:end] = cached = prefixes.insert(self._lease, tokens[first:end], mine)
            self.cache.allocator.free([own for own, other in zip(mine, cached, strict=True) if own != other])

    def extend(self, count: int) -> None:
        """Appends `count` entries; their content is undefined until a step writes it. Raises OutOfKvSlots."""
        self.slots.extend(self.cache.allocator.allocate(count))

    def truncate(self, length: int) -> None:
        """Frees all entries from `length` on, which is not below `shared`."""
        self.cut(length, max(0, len(self.slots) - length))

    def keep(self, prefix: int, kept: Sequence[int]) -> None:
        """Keeps the first `prefix` entries and then the entries `kept` (ascending, each >= prefix >= shared); frees the rest."""
        assert prefix >= self.shared
        slots = [self.slots[entry] for entry in kept]
        mine = set(kept)
        self.cache.allocator.free([self.slots[entry] for entry in range(prefix, len(self.slots)) if entry not in mine])
        self.slots[prefix:] = array("i", slots)

    def cut(self, prefix: int, count: int) -> None:
        """Frees the `count` entries after the first `prefix`, which is not below `shared`."""
        assert prefix >= self.shared
        self.cache.allocator.free(self.slots[prefix : prefix + count])
        del self.slots[prefix : prefix + count]

    def release(self) -> None:
        """Frees the own entries and ends the lease on the others."""
        self.truncate(self.shared)
        self.slots = array("i")
        if self._lease is not None and self.cache.allocator.prefixes is not None:
            self.cache.allocator.prefixes.release(self._lease)
        self._lease = None

    def retire(self, tokens: Sequence[int]) -> None:
        """As `release`; entries of `tokens`, all of which were computed, go to the prefix cache."""
        self.share(tokens)
        self.release()


def extend_all(sequences: Sequence[KvSequence], counts: Sequence[int]) -> np.ndarray:
    """As `extend` of each, of sequences in one cache; returns the slots, one sequence after another. Raises OutOfKvSlots, taking
    nothing."""
    if not sequences:
        return np.zeros(0, dtype=np.int32)
    taken, first = sequences[0].cache.allocator.allocate(sum(counts)), 0
    for kv, count in zip(sequences, counts, strict=True):
        kv.slots.extend(taken[first : first + count])
        first += count
    return np.frombuffer(taken, dtype=np.int32)


def keep_last(sequences: Sequence[KvSequence], counts: Sequence[int], slots: np.ndarray, kept: np.ndarray) -> None:
    """Of the last `counts[i]` entries of each sequence, which lie in `slots`, keeps those for which `kept` (bool) is true. Both go from
    one sequence to the next."""
    if not sequences:
        return
    sequences[0].cache.allocator.free(array("i", slots[~kept].tobytes()))
    stay, first = array("i", slots[kept].tobytes()), 0
    for kv, count, end in zip(sequences, counts, np.cumsum(kept)[np.cumsum(counts) - 1].tolist(), strict=True):
        kv.slots[len(kv.slots) - count :] = stay[first:end]
        first = end
