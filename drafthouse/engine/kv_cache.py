"""KV slots: one slot holds keys and values of one token in every layer.

Promises: slots are token-granular and owned by exactly one sequence; a sequence's entries are its
slot list, in any order of slots. The allocator keeps lists contiguous where it can, since a
contiguous list is read as a view and any other is gathered. Accepting a tree path moves the
accepted entries forward, so that a list stays as contiguous as it was.
"""

import bisect
import math
import mmap
from collections.abc import Sequence

import torch

from drafthouse.errors import OutOfKvSlots


class SlotAllocator:
    """Free slots as sorted, disjoint, non-adjacent intervals `[start, end)`. Pure Python."""

    def __init__(self, count: int):
        self.count = count
        self._starts, self._ends = [0], [count]
        self.free_count = count

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """`count` slots: those that follow slot `after` first, then from the largest free intervals.

        A new sequence (`after` None) starts in the middle of the largest interval when a sequence
        may be growing towards it from below, so that both have room. Raises OutOfKvSlots, taking nothing.
        """
        if count > self.free_count:
            raise OutOfKvSlots(f"{count} KV slots asked for, {self.free_count} of {self.count} are free")
        taken: list[int] = []
        if after is not None:
            at = bisect.bisect_left(self._starts, after + 1)
            if at < len(self._starts) and self._starts[at] == after + 1:
                taken += self._take(at, after + 1, min(count, self._ends[at] - after - 1))
        while len(taken) < count:
            at = max(range(len(self._starts)), key=lambda i: self._ends[i] - self._starts[i])
            start, end = self._starts[at], self._ends[at]
            wanted = count - len(taken)
            first = start if start == 0 or wanted > (end - start) // 2 else (start + end) // 2
            taken += self._take(at, first, min(wanted, end - first))
        return taken

    def _take(self, at: int, first: int, count: int) -> list[int]:
        start, end = self._starts[at], self._ends[at]
        left = [(start, first)] if first > start else []
        right = [(first + count, end)] if first + count < end else []
        self._starts[at : at + 1] = [s for s, _ in left + right]
        self._ends[at : at + 1] = [e for _, e in left + right]
        self.free_count -= count
        return list(range(first, first + count))

    def free(self, slots: Sequence[int]) -> None:
        for first, end in _runs(slots):
            at = bisect.bisect_left(self._starts, first)
            assert at == len(self._starts) or end <= self._starts[at], "a slot was freed twice"
            assert at == 0 or self._ends[at - 1] <= first, "a slot was freed twice"
            self._starts.insert(at, first)
            self._ends.insert(at, end)
            if at + 1 < len(self._starts) and self._starts[at + 1] == end:
                self._ends[at] = self._ends.pop(at + 1)
                self._starts.pop(at + 1)
            if at > 0 and self._ends[at - 1] == self._starts[at]:
                self._ends[at - 1] = self._ends.pop(at)
                self._starts.pop(at)
        self.free_count += len(slots)

    def check_integrity(self) -> None:
        """Raises AssertionError unless the intervals are sorted, apart and add up to `free_count`."""
        edges = [edge for pair in zip(self._starts, self._ends, strict=True) for edge in pair]
        assert all(a < b for a, b in zip(edges, edges[1:], strict=False)), f"free intervals overlap or touch: {edges}"
        assert self.free_count == sum(e - s for s, e in zip(self._starts, self._ends, strict=True))
        assert not edges or (edges[0] >= 0 and edges[-1] <= self.count)


def _runs(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted intervals `[first, end)` that hold exactly `slots`."""
    runs: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if runs and runs[-1][1] == slot:
            runs[-1] = (runs[-1][0], slot + 1)
        else:
            runs.append((slot, slot + 1))
    return runs


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU, memory that the system gives page by page as slots are first written: slots that are never used cost none."""
    if device.type != "cpu" or 0 in shape:  # of a drafter without a model
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class KvCache:
    """Keys and values of all layers, `[layers, 2, kv_heads, slots, head_dim]`, and who owns which slot."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, slots: int, dtype: torch.dtype, device: torch.device):
        self.data = _zeros((layers, 2, kv_heads, slots, head_dim), dtype, device)
        self.allocator = SlotAllocator(slots)

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copies entries between slots, as if all were read before any is written."""
        device = self.data.device
        rows = self.data.index_select(3, torch.tensor(source, device=device))
        self.data.index_copy_(3, torch.tensor(target, device=device), rows)


class SlotList:
    """What attention reads of a sequence, fixed at one moment: entry `i` lies in slot `slots[i]`. Small where contiguous."""

    def __init__(self, sequence: "KvSequence | SlotList"):
        slots = sequence.slots
        self.contiguous: bool = sequence.contiguous
        self.slots: Sequence[int] = range(slots[0], slots[0] + len(slots)) if slots and self.contiguous else list(slots)

    def __len__(self) -> int:
        return len(self.slots)


class KvSequence:
    """The KV entries of one sequence, in order: entry `i` lies in slot `slots[i]`."""

    def __init__(self, cache: KvCache):
        self.cache = cache
        self.slots: list[int] = []
        self._contiguous = 0  # so many leading entries lie one after another

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def contiguous(self) -> bool:
        return self._contiguous >= len(self.slots)

    def extend(self, count: int) -> None:
        """Appends `count` entries; their content is undefined until a step writes it. Raises OutOfKvSlots."""
        new = self.cache.allocator.allocate(count, self.slots[-1] if self.slots else None)
        joined = self.contiguous
        self.slots += new
        if joined:
            while self._contiguous < len(self.slots) and self.slots[self._contiguous] == self.slots[0] + self._contiguous:
                self._contiguous += 1

    def truncate(self, length: int) -> None:
        """Frees all entries from `length` on."""
        if length < len(self.slots):
            self.cache.allocator.free(self.slots[length:])
            del self.slots[length:]
            self._contiguous = min(self._contiguous, length)

    def keep(self, prefix: int, kept: Sequence[int]) -> None:
        """Keeps the first `prefix` entries and then the entries `kept` (ascending, each >= prefix); frees the rest."""
        moves = [(self.slots[old], self.slots[prefix + new]) for new, old in enumerate(kept) if old != prefix + new]
        if moves:
            self.cache.move([s for s, _ in moves], [t for _, t in moves])
        self.truncate(prefix + len(kept))

    def cut(self, prefix: int, count: int) -> None:
        """Frees the `count` entries after the first `prefix`. The prefix moves up to what follows, so a contiguous list stays one."""
        if prefix:
            self.cache.move(self.slots[:prefix], self.slots[count : count + prefix])
        self.cache.allocator.free(self.slots[:count])
        del self.slots[:count]
        self._contiguous = max(self._contiguous - count, min(1, len(self.slots)))

    def release(self) -> None:
        self.truncate(0)
