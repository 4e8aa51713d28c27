"""The fair queue: each client's order, no client ahead by more than one item and a turn, and nothing lost."""

from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.fair_queue import QUANTUM, FairQueue
from tests.unit.test_scheduler import Setting

COSTS = st.integers(1, 3000)
QUEUES = st.dictionaries(st.sampled_from("abcd"), st.lists(COSTS, min_size=1, max_size=30), min_size=1)


def served(queues: dict[str, list[int]]) -> list[tuple[str, int, int]]:
    queue = FairQueue[tuple[str, int, int]]()
    for client, costs in queues.items():
        for i, cost in enumerate(costs):
            queue.add((client, i, cost), client, cost)
    return [queue.take() for _ in range(len(queue))]


@given(QUEUES)
def test_nothing_is_lost_and_each_clients_items_keep_their_order(queues: dict[str, list[int]]) -> None:
    order = served(queues)
    for client, costs in queues.items():
        assert [(i, cost) for name, i, cost in order if name == client] == list(enumerate(costs))


@given(QUEUES)
def test_no_client_gets_ahead_of_one_that_waits_by_more_than_its_largest_item_and_a_turn(queues: dict[str, list[int]]) -> None:
    got = dict.fromkeys(queues, 0)
    left = {client: len(costs) for client, costs in queues.items()}
    largest = max(max(costs) for costs in queues.values())
    for client, _, cost in served(queues):
        got[client] += cost
        left[client] -= 1
        waiting = [got[other] for other in queues if left[other]]
        if left[client]:
            assert max(waiting) - min(waiting) <= 2 * (largest + QUANTUM)


@given(st.lists(st.tuples(st.sampled_from(("add", "take", "remove", "back", "look")), st.sampled_from("abc"), COSTS), max_size=60))
def test_any_order_of_calls_keeps_all_items_and_the_next_one_stays(calls: list[tuple[str, str, int]]) -> None:
    queue, there, taken, count = FairQueue[int](), [], [], 0
    for call, client, cost in calls:
        if call == "add":
            count += 1
            queue.add(count, client, cost)
            there.append(count)
        elif call == "back" and taken:
            queue.put_back(taken.pop())
            there.append(queue.first())
        elif there and call == "remove":
            queue.remove(there.pop(cost % len(there)))
        elif there and call == "take":
            first = queue.first()
            assert queue.take() == first
            there.remove(first)
            taken.append(first)
        elif there:
            first = queue.first()
            assert first == queue.first()
        assert len(queue) == len(there)
    assert sorted(queue.take() for _ in range(len(queue))) == sorted(there)


@given(QUEUES, st.integers(0, 40), st.sets(st.tuples(st.sampled_from("abcd"), st.integers(0, 29))))
def test_some_are_taken_in_the_order_of_their_turns_and_the_others_stay(
    queues: dict[str, list[int]], count: int, unwanted: set[tuple[str, int]]
) -> None:
    queue = FairQueue[tuple[str, int, int]]()
    for client, costs in queues.items():
        for i, cost in enumerate(costs):
            queue.add((client, i, cost), client, cost)
    some = queue.take_some(count, lambda item: item[:2] not in unwanted)
    order = served(queues)
    if not any(item[:2] in unwanted for item in order):
        assert some == order[:count]
    assert len(some) == min(count, sum(item[:2] not in unwanted for item in order))
    for client in queues:
        left = [item for item in order if item[0] == client and item not in some]
        assert [item for item in some if item[0] == client] == [item for item in order if item[0] == client and item in some]
        assert all(item[:2] in unwanted or all(other < item for other in some if other[0] == client) for item in left), "the first go"
    rest = [queue.take() for _ in range(len(queue))]
    assert sorted(rest + some) == sorted(order)
    for client in queues:
        assert [item for item in rest if item[0] == client] == sorted(item for item in rest if item[0] == client)


def test_who_has_been_given_some_waits_for_the_others() -> None:
    queue = FairQueue[str]()
    for item in ("a1", "a2", "a3", "b1", "b2"):
        queue.add(item, item[0], QUANTUM)
    assert queue.take_some(2, lambda item: item[0] == "a") == ["a1", "a2"]
    assert [queue.take() for _ in range(len(queue))] == ["b1", "b2", "a3"]


def test_who_has_had_a_turn_goes_first_in_order() -> None:
    queue = FairQueue[str]()
    queue.add("waits", "a", 1)
    queue.put_behind_those_put_back("elsewhere 1")
    queue.put_behind_those_put_back("elsewhere 2")
    queue.put_back("here")
    assert [queue.take() for _ in range(len(queue))] == ["here", "elsewhere 1", "elsewhere 2", "waits"]


def test_the_schedulers_queue_serves_keys_in_turn() -> None:
    """One key brings twelve requests at once, another two afterwards: they do not wait for the twelve."""
    it = Setting(slots=4000, max_sequences=1, max_queue=20, step_tokens=64)
    for key, count in (("many", 12), ("few", 2)):
        for i in range(count):
            it.add(f"{key} {i}", 8, max_tokens=400, cache_key=key)
    begun = []
    while it.scheduler.waiting:
        it.step()
        (running,) = it.scheduler.running
        begun.append(running.id)
        it.scheduler.remove(running)
    assert [name for name in begun if name.startswith("many")] == [f"many {i}" for i in range(12)]
    assert [name for name in begun[:5] if name.startswith("few")] == ["few 0", "few 1"]


WORTHS = st.sampled_from([0.25, 1.0, 1.0, 2.5, 4.0])


@given(st.lists(WORTHS, min_size=1, max_size=40))
def test_nothing_waits_for_more_than_twice_as_many_as_in_turn_whatever_others_are_worth(worths: list[float]) -> None:
    queue = FairQueue[int](worths.__getitem__)
    for i, worth in enumerate(worths):
        queue.add(i, "", 100, uneven=worth != 1.0)
    order = [queue.take() for _ in worths]
    for behind, item in enumerate(order):
        assert behind <= 2 * item + 1, "of those before it in turn each lets one other pass, and so does it"


@given(st.lists(st.tuples(st.sampled_from("abc"), WORTHS), min_size=1, max_size=60))
def test_what_is_next_in_turn_lets_one_other_pass_at_most_even_while_more_of_great_worth_come(coming: list[tuple[str, float]]) -> None:
    worths = dict[int, float]()
    queue = FairQueue[int](worths.__getitem__)
    worths[-1] = 0.25
    queue.add(-1, "patient", 2000, uneven=True)
    passed = 0
    for i, (client, worth) in enumerate(coming):
        worths[i] = worth
        queue.add(i, client, 100, uneven=True)
        before = queue.first()
        assert queue.take() == before
        if before == -1:
            break
        passed += 1
    assert passed <= 1 + 3 * 2 * 2000 // 100, "three clients of items of 100 tokens have twenty turns each, and as many out of turn"


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.tuples(COSTS, WORTHS), min_size=1, max_size=30), min_size=1))
def test_who_is_worth_more_gets_ahead_of_others_by_one_item_more(queues: dict[str, list[tuple[int, float]]]) -> None:
    queue = FairQueue[tuple[str, int, int, float]](lambda item: item[3])
    for client, items in queues.items():
        for i, (cost, worth) in enumerate(items):
            queue.add((client, i, cost, worth), client, cost, uneven=True)
    got, left = dict.fromkeys(queues, 0), {client: len(items) for client, items in queues.items()}
    largest = max(cost for items in queues.values() for cost, _ in items)
    while len(queue):
        client, _, cost, _ = queue.take()
        got[client] += cost
        left[client] -= 1
        waiting = [got[other] for other in queues if left[other]]
        if left[client]:
            assert max(waiting) - min(waiting) <= 2 * (largest + QUANTUM) + largest
    assert not any(left.values())


def test_the_one_that_is_worth_most_goes_first_and_the_next_in_turn_after_it() -> None:
    worths = {"old": 1.0, "later": 1.0, "more": 2.0, "most": 4.0}
    queue = FairQueue[str](worths.__getitem__)
    for item, worth in worths.items():
        queue.add(item, "", 10, uneven=worth != 1.0)
    assert [queue.take() for _ in range(4)] == ["most", "old", "more", "later"]


def test_what_becomes_urgent_while_it_waits_goes_before_one_that_has_no_room() -> None:
    worths = {"large": 1.0, "small": 1.0}
    queue = FairQueue[str](worths.__getitem__)
    for item in worths:
        queue.add(item, "", 10, uneven=item == "small")
    assert queue.first() == "large"
    worths["small"] = 2.5
    assert queue.first() == "small"
    worths["small"] = 1.0
    assert queue.first() == "small", "the next one stays"


def test_of_many_clients_no_two_go_out_of_turn_in_a_row() -> None:
    worths = {"head": 1.0, "a": 4.0, "b": 4.0}
    queue = FairQueue[str](worths.__getitem__)
    queue.add("head", "patient", 10)
    assert queue.first() == "head"
    for item in ("a", "b"):
        queue.add(item, f"client {item}", 10, uneven=True)
    assert [queue.take() for _ in range(3)] == ["a", "head", "b"]


def test_a_clients_own_urgent_items_do_not_hold_its_others_back_for_ever() -> None:
    """While another client has its turns, one that has had an urgent item out of turn waits for its own turn."""
    queue = FairQueue[str](lambda item: 4.0 if item.startswith("urgent") else 1.0)
    queue.add("plain", "mixed", 1000, uneven=True)
    for i in range(4):
        queue.add(f"urgent {i}", "mixed", 1000, uneven=True)
    for i in range(40):
        queue.add(f"other {i}", "other", 250)
    order = [queue.take() for _ in range(len(queue))]
    assert order.index("urgent 0") < order.index("plain") < order.index("urgent 1")
