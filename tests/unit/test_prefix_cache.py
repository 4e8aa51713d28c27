"""The radix tree of cached prefixes, against a table of all prefixes, and what it forgets first."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drafthouse.engine.kv_cache import SlotAllocator
from drafthouse.engine.prefix_cache import Lease, PrefixCache, common_length
from drafthouse.errors import OutOfKvSlots

KEYS = ("", "one")
Prefix = tuple[str, tuple[int, ...]]
texts = st.lists(st.integers(0, 2), min_size=1, max_size=8)  # few tokens, so that texts begin alike


class Table(RuleBasedStateMachine):
    """`cached` says in which slot the last token of each cached prefix lies; `leases` what they cover."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixCache()
        self.cached: dict[Prefix, int] = {}
        self.leases: list[tuple[Lease, Prefix]] = []
        self.next_slot = 0

    @rule(tokens=texts, key=st.sampled_from(KEYS))
    def match(self, tokens: list[int], key: str) -> None:
        length = max(n for n in range(len(tokens)) if n == 0 or (key, tuple(tokens[:n])) in self.cached)
        lease, slots = self.tree.match(tokens, key)
        assert list(slots) == self.slots_of(key, tuple(tokens[:length]))
        assert lease.length == length
        self.leases.append((lease, (key, tuple(tokens[:length]))))

    @precondition(lambda self: self.leases)
    @rule(tokens=texts, data=st.data())
    def insert(self, tokens: list[int], data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.leases) - 1))
        lease, (key, before) = self.leases[place]
        given, self.next_slot = array("i", range(self.next_slot, self.next_slot + len(tokens))), self.next_slot + len(tokens)
        slots = self.tree.insert(lease, tokens, given)
        text = (*before, *tokens)
        for i, slot in enumerate(given):
            self.cached.setdefault((key, text[: len(before) + i + 1]), slot)
        assert list(slots) == self.slots_of(key, text)[len(before) :]
        assert lease.length == len(text)
        self.leases[place] = lease, (key, text)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.tree.release(lease)

    @rule(count=st.integers(1, 6))
    def evict(self, count: int) -> None:
        free = len(self.cached) - len(self.held())
        gone = self.tree.evict(count)
        assert len(gone) == len(set(gone)) == min(count, free)
        assert not {slot for prefix, slot in self.cached.items() if prefix in self.held()} & set(gone), "a lease was broken"
        self.cached = {prefix: slot for prefix, slot in self.cached.items() if slot not in gone}
        assert all(n == 1 or (key, text[: n - 1]) in self.cached for key, text in self.cached for n in [len(text)]), "a hole"

    def held(self) -> set[Prefix]:
        return {(key, text[:n]) for _, (key, text) in self.leases for n in range(1, len(text) + 1)}

    def slots_of(self, key: str, text: tuple[int, ...]) -> list[int]:
        return [self.cached[key, text[: n + 1]] for n in range(len(text))]

    @invariant()
    def holds_what_the_table_holds(self) -> None:
        self.tree.check_integrity()
        assert sorted(self.tree.slots()) == sorted(self.cached.values())
        assert self.tree.idle_count == len(self.cached) - len(self.held())


TestTable = Table.TestCase


def add(tree: PrefixCache, tokens: list[int], first_slot: int, key: str = "") -> None:
    lease, slots = tree.match([*tokens, 0], key)
    tree.insert(lease, tokens[len(slots) :], array("i", range(first_slot, first_slot + len(tokens) - len(slots))))
    tree.release(lease)


def test_what_was_used_last_is_forgotten_last_and_texts_from_their_ends() -> None:
    tree = PrefixCache()
    add(tree, [1, 2, 3, 4], 0)
    add(tree, [1, 2, 7, 8], 10)
    add(tree, [5, 6], 20)
    add(tree, [1, 2, 3, 4], 30)  # used again
    assert tree.evict(1) == [11], "of the oldest, 1 2 7 8, its end"
    assert tree.evict(2) == [10, 21], "then the rest of it, not what it has in common with a younger one; then of 5 6 its end"
    assert tree.evict(9) == [20, 2, 3, 0, 1]
    assert tree.evict(1) == []
    tree.check_integrity()


def test_keys_share_nothing() -> None:
    tree = PrefixCache()
    add(tree, [1, 2, 3], 0, "mine")
    lease, slots = tree.match([1, 2, 3, 4], "yours")
    assert (lease.length, list(slots)) == (0, [])
    assert tree.match([1, 2, 3, 4], "mine")[0].length == 3


def test_at_most_all_but_the_last_token_is_matched() -> None:
    tree = PrefixCache()
    add(tree, [1, 2, 3], 0)
    assert [tree.match(tokens, "")[0].length for tokens in ([1, 2, 3], [1, 2, 3, 4], [1], [])] == [2, 3, 0, 0]


def test_a_text_that_grows_stays_one_edge() -> None:
    """Or a long prompt, shared chunk by chunk, would be a chain of nodes."""
    tree = PrefixCache()
    lease, _ = tree.match([], "")
    for first in range(0, 100, 10):
        tree.insert(lease, range(first, first + 10), array("i", range(first, first + 10)))
    assert len(list(tree._nodes())) == 2


def test_allocation_takes_free_slots_first_and_then_cached_ones() -> None:
    allocator = SlotAllocator(10)
    allocator.prefixes = tree = PrefixCache()
    lease, _ = tree.match([], "")
    tree.insert(lease, [1, 2, 3, 4, 5, 6], array("i", allocator.allocate(6)))
    assert allocator.free_count == 4
    with pytest.raises(OutOfKvSlots, match="5 KV slots asked for, 4 of 10"):
        allocator.allocate(5)
    tree.release(lease)
    assert allocator.free_count == 10
    taken = allocator.allocate(3)
    assert (allocator.free_count, tree.slot_count) == (7, 6)
    taken += allocator.allocate(3)
    assert (allocator.free_count, tree.slot_count) == (4, 4)
    lease, _ = tree.match([1, 2, 3, 4, 5, 6, 7], "")
    assert lease.length == 4
    tree.release(lease)
    allocator.free(taken)
    allocator.check_integrity()
    assert len(allocator.allocate(10)) == 10


@given(texts, texts)
def test_common_length(a: list[int], b: list[int]) -> None:
    length = common_length(a, b)
    assert a[:length] == b[:length]
    assert length in (len(a), len(b)) or a[length] != b[length]
