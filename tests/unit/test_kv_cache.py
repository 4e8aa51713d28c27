"""KV slots: every entry keeps the value written for it, and every slot has one owner, whatever the order of operations."""

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drafthouse.engine.kv_cache import KvCache, KvSequence, SlotAllocator
from drafthouse.errors import OutOfKvSlots

SLOTS = 40


def free_slots(allocator: SlotAllocator) -> set[int]:
    return set(allocator._free)


class Allocations(RuleBasedStateMachine):
    """The allocator against a set of free slots."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = SlotAllocator(SLOTS)
        self.held: list[int] = []

    @rule(count=st.integers(0, SLOTS + 3))
    def allocate(self, count: int) -> None:
        before = free_slots(self.allocator)
        if count > len(before):
            with pytest.raises(OutOfKvSlots, match=f"{count} KV slots asked for, {len(before)} of {SLOTS}"):
                self.allocator.allocate(count)
            assert free_slots(self.allocator) == before, "a refused allocation takes nothing"
            return
        taken = self.allocator.allocate(count)
        assert len(taken) == count == len(set(taken))
        assert set(taken) <= before
        self.held += taken

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(self.held), unique=True))
        self.allocator.free(gone)
        self.held = [slot for slot in self.held if slot not in gone]

    @invariant()
    def free_and_held_are_all_slots(self) -> None:
        self.allocator.check_integrity()
        assert free_slots(self.allocator) == set(range(SLOTS)) - set(self.held)
        assert self.allocator.free_count == SLOTS - len(self.held)


class Sequences(RuleBasedStateMachine):
    """Three sequences in one small cache; each entry is stamped when it is new and must keep its stamp."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KvCache(2, 1, 1, SLOTS, torch.int64, torch.device("cpu"))
        self.sequences = [KvSequence(self.cache) for _ in range(3)]
        self.stamps: list[list[int]] = [[], [], []]
        self.next_stamp = 1

    @rule(which=st.integers(0, 2), count=st.integers(1, 12))
    def extend(self, which: int, count: int) -> None:
        sequence, before = self.sequences[which], self.cache.allocator.free_count
        if count > before:
            slots = sequence.slots[:]
            with pytest.raises(OutOfKvSlots):
                sequence.extend(count)
            assert (sequence.slots, self.cache.allocator.free_count) == (slots, before)
            return
        sequence.extend(count)
        for slot in sequence.slots[-count:]:
            self.cache.data[:, :, 0, slot, 0] = self.next_stamp + torch.arange(4).view(2, 2) * 10_000
            self.stamps[which].append(self.next_stamp)
            self.next_stamp += 1

    @rule(which=st.integers(0, 2), length=st.integers(0, 20))
    def truncate(self, which: int, length: int) -> None:
        self.sequences[which].truncate(length)
        del self.stamps[which][length:]

    @rule(which=st.integers(0, 2), data=st.data())
    def keep(self, which: int, data: st.DataObject) -> None:
        stamps = self.stamps[which]
        prefix = data.draw(st.integers(0, len(stamps)))
        rest = st.sampled_from(range(prefix, len(stamps))) if prefix < len(stamps) else st.nothing()
        kept = sorted(data.draw(st.sets(rest))) if prefix < len(stamps) else []
        self.sequences[which].keep(prefix, kept)
        self.stamps[which] = stamps[:prefix] + [stamps[i] for i in kept]

    @rule(which=st.integers(0, 2), data=st.data())
    def cut(self, which: int, data: st.DataObject) -> None:
        stamps = self.stamps[which]
        prefix = data.draw(st.integers(0, len(stamps)))
        count = data.draw(st.integers(0, len(stamps) - prefix))
        self.sequences[which].cut(prefix, count)
        del stamps[prefix : prefix + count]

    @rule(which=st.integers(0, 2))
    def release(self, which: int) -> None:
        self.sequences[which].release()
        self.stamps[which] = []

    @invariant()
    def each_entry_holds_its_stamp(self) -> None:
        for sequence, stamps in zip(self.sequences, self.stamps, strict=True):
            assert self.cache.data[:, :, 0, sequence.slots, 0].tolist() == [
                [[stamp + 10_000 * (2 * layer + which) for stamp in stamps] for which in range(2)] for layer in range(2)
            ]

    @invariant()
    def slots_have_one_owner(self) -> None:
        owned = [slot for sequence in self.sequences for slot in sequence.slots]
        assert set(owned) == set(range(SLOTS)) - free_slots(self.cache.allocator)
        assert len(owned) == len(set(owned))
        self.cache.allocator.check_integrity()


TestAllocations = Allocations.TestCase
TestSequences = Sequences.TestCase


@given(st.lists(st.integers(0, SLOTS - 1), min_size=1, unique=True), st.data())
def test_a_slot_freed_twice_is_noticed(slots: list[int], data: st.DataObject) -> None:
    """Among few and among many."""
    allocator = SlotAllocator(SLOTS)
    allocator.allocate(SLOTS)
    allocator.free(slots)
    again = data.draw(st.sampled_from(slots))
    others = [slot for slot in range(SLOTS) if slot not in slots][: data.draw(st.integers(0, SLOTS))]
    with pytest.raises(AssertionError, match="freed twice"):
        allocator.free([*others, again])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slots_that_were_never_used_take_no_memory(dtype: torch.dtype) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    cache = KvCache(layers=4, kv_heads=8, head_dim=64, slots=1 << 16, dtype=dtype, device=torch.device("cpu"))
    assert cache.data.nbytes >= 500e6
    assert process.memory_info().rss - before < 50e6
    cache.data[0, 0, 0, :4] = 1
    assert cache.data[0, 0, 0, :8].sum() == 4 * 64
    assert not cache.data[3, 1, 7, -8:].any()
