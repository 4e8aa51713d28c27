"""A queue that is fair between clients: deficit round robin by tokens (Shreedhar and Varghese, 1995). No clock.

Promises: each client's own items keep their order; one client alone is served in order. Of clients that always have something
waiting, none gets more tokens ahead of another than the largest item and one quantum. An item that has had its turn goes first.

Where items differ in worth, one of more worth than the next in turn may go out of turn. Its client pays for it as for any other.
Two never go out of turn in a row, neither of all clients nor of one: so what is next in turn goes after one other at most, nothing
waits for more than twice as many as without worths, and one; and a client gets ahead by one item more.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")

QUANTUM = 256.0
"""Tokens that a client may have served in one turn. Smaller is fairer between short requests, and costs nothing here."""


class FairQueue(Generic[Item]):
    def __init__(self, worth: Callable[[Item], float] = lambda item: 1.0) -> None:
        """`worth` is asked for when an item is chosen: it may change while the item waits."""
        self._worth = worth
        self._uneven: set[Item] = set()  # those that wait and whose worth may differ from others'
        self._ahead: Item | None = None  # goes out of turn; stays so until it is taken
        self._hurried: set[str] = set()  # clients whose last item went out of turn
        self._was_hurried = False  # the last item of all did
        self._back: deque[Item] = deque()
        self._queues: OrderedDict[str, OrderedDict[Item, float]] = OrderedDict()  # by client in order of turns; items with their cost
        self._deficit: dict[str, float] = {}
        self._clients: dict[Item, str] = {}
        self._next: Item | None = None  # stays the next until it is taken, whoever comes

    def __len__(self) -> int:
        return len(self._back) + len(self._clients)

    def add(self, item: Item, client: str, cost: float, uneven: bool = False) -> None:
        """`cost` in tokens. `uneven`: its worth may differ from that of others."""
        if uneven:
            self._uneven.add(item)
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
        if item is self._ahead:
            self._ahead = None
        self._uneven.discard(item)
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
        if self._uneven and self._ahead is None and not self._was_hurried:
            self._ahead = self._worth_more(self._next)
        return self._next if self._ahead is None else self._ahead

    def take(self) -> Item:
        """The next, which leaves the queue and pays with its client's turn."""
        item = self.first()
        if self._back:
            self.remove(item)
            return item
        client, hurried = self._clients[item], item is self._ahead
        self._was_hurried = hurried
        self._hurried.discard(client)
        if hurried:
            self._hurried.add(client)
        self._pay(item)
        return item

    def _worth_more(self, head: Item) -> Item | None:
        """Of those that are worth more than the next in turn, the one that is worth most; of equals the first. No one whose client has had
        the like just before."""
        best, most = None, self._worth(head)
        for client, queue in self._queues.items():
            for item in queue if client not in self._hurried else ():
                if (worth := self._worth(item)) > most:
                    best, most = item, worth
        return best

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
            self._hurried.discard(client)
