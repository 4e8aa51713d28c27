"""A queue that is fair between clients: deficit round robin by tokens (Shreedhar and Varghese, 1995). No clock.

Promises: each client's own items keep their order; one client alone is served in order. Of clients that always have something
waiting, none gets more tokens ahead of another than the largest item and one quantum. An item that has had its turn goes first.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")

QUANTUM = 256.0
"""Tokens that a client may have served in one turn. Smaller is fairer between short requests, and costs nothing here."""


class FairQueue(Generic[Item]):
    def __init__(self) -> None:
        self._back: deque[Item] = deque()
        self._queues: OrderedDict[str, OrderedDict[Item, float]] = OrderedDict()  # by client in order of turns; items with their cost
        self._deficit: dict[str, float] = {}
        self._clients: dict[Item, str] = {}
        self._next: Item | None = None  # stays the next until it is taken, whoever comes

    def __len__(self) -> int:
        return len(self._back) + len(self._clients)

    def add(self, item: Item, client: str, cost: float) -> None:
        """`cost` in tokens."""
        self._queues.setdefault(client, OrderedDict())[item] = cost
        self._clients[item] = client
        self._deficit.setdefault(client, 0.0)

    def put_back(self, item: Item) -> None:
        """It has had its turn already and lost its place: it goes before all others."""
        self._back.appendleft(item)

    def put_behind_those_put_back(self, item: Item) -> None:
        """It has had its turn elsewhere: it goes before all that have not had theirs."""
        self._back.append(item)

    def remove(self, item: Item) -> None:
        """Does nothing where it does not wait."""
        if item is self._next:
            self._next = None
        client = self._clients.pop(item, None)
        if client is not None:
            del self._queues[client][item]
            self._forget_empty(client)
        elif item in self._back:
            self._back.remove(item)

    def first(self) -> Item:
        """The next to be served; there must be one. The same until it is taken or removed, but for those put back."""
        if self._back:
            return self._back[0]
        if self._next is None:
            self._next = self._choose({client: next(iter(queue)) for client, queue in self._queues.items()})
        return self._next

    def take(self) -> Item:
        """The next, which leaves the queue and pays with its client's turn."""
        item = self.first()
        if self._back:
            self.remove(item)
        else:
            self._pay(item)
        return item

    def take_some(self, count: int, wanted: Callable[[Item], bool]) -> list[Item]:
        """The next `count` of those that are wanted: they leave the queue and pay with their clients' turns. Others keep their order."""
        some = [item for item in self._back if wanted(item)][:count]
        for item in some:
            self.remove(item)
        queues = {client: deque(item for item in queue if wanted(item)) for client, queue in self._queues.items()}
        while len(some) < count and (firsts := {client: items[0] for client, items in queues.items() if items}):
            item = self._choose(firsts)
            queues[self._clients[item]].popleft()
            self._pay(item)
            some.append(item)
        return some

    def _pay(self, item: Item) -> None:
        client = self._clients[item]
        self._deficit[client] -= self._queues[client][item]
        self.remove(item)

    def _choose(self, firsts: Mapping[str, Item]) -> Item:
        """Goes round, among the first items of clients, until one's turns have saved enough for its own: at once, not turn by turn."""
        short = {client: self._queues[client][firsts[client]] - self._deficit[client] for client in self._queues if client in firsts}
        rounds = min(-(-need // QUANTUM) if need > 0 else 0.0 for need in short.values())
        for client, need in short.items():
            if need <= rounds * QUANTUM:
                chosen = client
                break
        for client in self._queues:
            self._deficit[client] += rounds * QUANTUM
        if rounds:
            while next(iter(self._queues)) != chosen:
                self._queues.move_to_end(next(iter(self._queues)))
        return firsts[chosen]

    def _forget_empty(self, client: str) -> None:
        """A client with nothing waiting saves up nothing."""
        if not self._queues[client]:
            del self._queues[client], self._deficit[client]
