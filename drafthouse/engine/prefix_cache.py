"""Which KV slots hold which beginnings of texts: a radix tree over token ids, whose edges hold runs of slots.

Promises: pure Python. A slot stands in at most one place. What a lease covers stays as it is until the lease ends; the rest is
given back least recently used first, from the ends of texts. Texts of different keys share nothing.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

LEAST_SHARED = 16
"""Tokens. To compute a shorter common beginning twice costs less than to wait a step for it."""


class _Node:
    """An edge and what hangs below it: the token at `tokens[i]` has its keys and values in `slots[i]`. A root has none of either.
    `leases` counts those that end here or further down."""

    __slots__ = ("children", "leases", "parent", "slots", "tokens")

    def __init__(self, parent: "_Node | None", tokens: "array[int]", slots: "array[int]", leases: int):
        self.parent, self.tokens, self.slots, self.leases = parent, tokens, slots, leases
        self.children: dict[int, _Node] = {}  # by first token


class Lease:
    """Keeps the first `length` tokens of a text cached, from `match` to `release`."""

    __slots__ = ("length", "node")

    def __init__(self, node: _Node, length: int):
        self.node, self.length = node, length


class PrefixCache:
    """`slot_count` slots are in the tree; `idle_count` of them are under no lease, and `evict` can give them back."""

    def __init__(self) -> None:
        self.slot_count = self.idle_count = 0
        self._roots: dict[str, _Node] = {}
        # Nodes without leases, least recently used first. A node stands before those above it: a lease on it was one on them, too.
        self._idle: OrderedDict[_Node, None] = OrderedDict()

    def match(self, tokens: Sequence[int], key: str) -> "tuple[Lease, array[int]]":
        """A lease on the longest cached beginning of `tokens`, at most all but the last one, and its slots."""
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = _Node(None, array("i"), array("i"), 0)
        node, slots = self._descend(root, tokens, max(0, len(tokens) - 1))
        self._hold(node, None)
        return Lease(node, len(slots)), slots

    def insert(self, lease: Lease, tokens: Sequence[int], slots: "array[int]") -> "array[int]":
        """Adds tokens that follow what the lease covers, with the slots of their keys and values; the lease then covers them.

        Returns the slots that hold them from now on. Where tokens were cached already these are the cache's, and the given ones
        stay the caller's.
        """
        node, known = self._descend(lease.node, tokens, len(tokens))
        self._hold(node, lease.node)
        if len(known) < len(tokens):
            node = self._append(node, array("i", tokens[len(known) :]), slots[len(known) :])
        lease.node, lease.length = node, lease.length + len(tokens)
        return known + slots[len(known) :]

    def release(self, lease: Lease) -> None:
        """Ends the lease; what no other one covers is then the most recently used of what may be evicted."""
        node: _Node | None = lease.node
        while node is not None:
            node.leases -= 1
            if not node.leases and node.parent is not None:
                self._idle[node] = None
                self.idle_count += len(node.slots)
            node = node.parent

    def evict(self, count: int) -> list[int]:
        """Forgets `count` tokens that no lease covers, or all there are; returns their slots."""
        slots: list[int] = []
        while len(slots) < count and self._idle:
            node = next(iter(self._idle))
            first, left = node.tokens[0], max(0, len(node.slots) - (count - len(slots)))
            assert node.parent is not None
            slots += node.slots[left:]
            del node.slots[left:], node.tokens[left:]
            if not left:
                del self._idle[node], node.parent.children[first]
        self.idle_count -= len(slots)
        self.slot_count -= len(slots)
        return slots

    def _descend(self, node: _Node, tokens: Sequence[int], end: int) -> "tuple[_Node, array[int]]":
        """From `node` along `tokens[:end]` as far as they are cached: the node that ends just there, and the slots on the way.
        A node that is split for it may stand anywhere among the idle ones, so it is to be held next."""
        slots = array("i")
        while len(slots) < end and (child := node.children.get(tokens[len(slots)])) is not None:
            wanted = array("i", tokens[len(slots) : min(end, len(slots) + len(child.tokens))])
            common = common_length(child.tokens, wanted)
            node = child if common == len(child.tokens) else self._split(child, common)
            slots += node.slots
            if node is not child:
                break
        return node, slots

    def _split(self, node: _Node, length: int) -> _Node:
        """Puts a node of its own above `node`, with the first `length` of its tokens."""
        assert node.parent is not None
        upper = _Node(node.parent, node.tokens[:length], node.slots[:length], node.leases)
        node.parent.children[node.tokens[0]] = upper
        del node.tokens[:length], node.slots[:length]
        node.parent = upper
        upper.children[node.tokens[0]] = node
        if not upper.leases:
            self._idle[upper] = None
        return upper

    def _hold(self, node: _Node | None, until: _Node | None) -> None:
        """One lease more on `node` and those above it, up to and without `until`."""
        while node is not until:
            assert node is not None
            if not node.leases and node.parent is not None:
                del self._idle[node]
                self.idle_count -= len(node.slots)
            node.leases += 1
            node = node.parent

    def _append(self, node: _Node, tokens: "array[int]", slots: "array[int]") -> _Node:
        """What follows `node`, in a node that holds the same lease. A leaf that is under this lease alone just grows."""
        self.slot_count += len(slots)
        if node.leases == 1 and not node.children and node.parent is not None:
            node.tokens += tokens
            node.slots += slots
            return node
        child = node.children[tokens[0]] = _Node(node, tokens, slots, 1)
        return child

    def slots(self) -> Iterator[int]:
        """All that are in the tree."""
        for node in self._nodes():
            yield from node.slots

    def _nodes(self) -> Iterator[_Node]:
        todo = list(self._roots.values())
        while todo:
            node = todo.pop()
            yield node
            todo += node.children.values()

    def check_integrity(self) -> None:
        """Raises AssertionError unless the tree, its counters and the order of what may be evicted fit together."""
        slots = list(self.slots())
        assert len(slots) == len(set(slots)) == self.slot_count
        place = {node: i for i, node in enumerate(self._idle)}
        for node in self._nodes():
            assert len(node.tokens) == len(node.slots)
            assert (node in place) == (node.leases == 0 and node.parent is not None)
            assert node.leases >= sum(child.leases for child in node.children.values())
            for first, child in node.children.items():
                assert child.parent is node
                assert child.tokens[0] == first
                assert node not in place or place[child] < place[node], "a node would be evicted before what hangs below it"
        assert self.idle_count == sum(len(node.slots) for node in place)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with. Slices compare fast, so the place where they part is found by halves."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # equal up to `low`, not up to `high`
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
