"""Who has a draft session and where: seats, the prefill that a session must pay, and what it takes to displace one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.draft_seats import HYSTERESIS, MOVES, SLACK_SEATS, SLACK_SHARE, Candidate, DraftSeats, SeatOffer


def offer(drafter: str, seats: int, gain: float = 1.0, price: float = 0.0, token_s: float = 1e-4) -> SeatOffer:
    return SeatOffer(drafter, seats, gain, price, node_s=1e-3, token_s=token_s)


def seats_of(*offers: SeatOffer) -> DraftSeats[str]:
    seats = DraftSeats[str]()
    seats.replace(offers)
    return seats


def candidate(key: str, worth: float = 1.0, drafter: str | None = None, left: int = 100) -> Candidate[str]:
    return Candidate(key, worth, 50, left, drafter)


def test_the_seat_that_brings_most_is_taken_and_a_full_drafter_is_not() -> None:
    seats = seats_of(offer("slow", 2, gain=0.5), offer("fast", 1, gain=1.5))
    assert seats.seat(candidate("a"), ["slow", "fast"], Counter()) == "fast"
    assert seats.seat(candidate("a"), ["slow", "fast"], Counter(fast=1)) == "slow"
    assert seats.seat(candidate("a"), ["slow"], Counter(slow=2)) is None
    assert seats.seat(candidate("a"), ["unknown"], Counter()) is None


def test_free_seats_go_to_those_who_are_worth_most() -> None:
    changes = seats_of(offer("x", 1)).arrange([candidate("low"), candidate("high", 2.0)], ["x"])
    assert (changes.open, changes.end) == ({"high": "x"}, [])


def test_a_text_that_ends_soon_does_not_pay_for_its_prefill_where_time_is_dear() -> None:
    dear = seats_of(offer("x", 1, price=2000.0))
    assert dear.seat(candidate("long", left=100), ["x"], Counter()) == "x"
    assert dear.seat(candidate("short", left=4), ["x"], Counter()) is None


def test_a_session_is_displaced_only_beyond_the_hysteresis() -> None:
    seats = seats_of(offer("x", 1))
    held = candidate("old", 1.0, "x")
    near = seats.arrange([held, candidate("new", 0.99 * HYSTERESIS)], ["x"])
    assert (near.open, near.end) == ({}, [])
    far = seats.arrange([held, candidate("new", 1.01 * HYSTERESIS)], ["x"])
    assert (far.open, far.end) == ({"new": "x"}, ["old"])


def test_a_share_that_shrinks_costs_the_least_worth_and_leaves_a_slack() -> None:
    held = [candidate(f"{i}", 1.0 + i, "x") for i in range(4)]
    assert seats_of(offer("x", 4 - SLACK_SEATS)).arrange(held, ["x"]).end == []
    assert seats_of(offer("x", 3 - SLACK_SEATS)).arrange(held, ["x"]).end == ["0"]
    assert seats_of().arrange(held, []).end == ["0", "1", "2"]


def test_a_node_costs_its_drafters_time() -> None:
    seats = seats_of(offer("x", 1, price=300.0))
    assert seats.node_price("x") == 0.3
    assert seats.node_price("unknown") == 0.0


@given(
    limits=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    people=st.lists(st.tuples(st.floats(0.1, 8.0), st.integers(-1, 3)), max_size=20),
)
def test_no_drafter_has_more_sessions_than_seats_and_slack(limits: list[int], people: list[tuple[float, int]]) -> None:
    names = [f"d{i}" for i in range(len(limits))]
    seats = seats_of(*(offer(name, limit, gain=1.0 + i) for i, (name, limit) in enumerate(zip(names, limits, strict=True))))
    candidates = [candidate(f"{i}", w, names[d] if 0 <= d < len(names) else None) for i, (w, d) in enumerate(people)]
    changes = seats.arrange(candidates, names)
    after = Counter(c.drafter for c in candidates if c.drafter and c.key not in changes.end)
    after.update(changes.open.values())
    for name, limit in zip(names, limits, strict=True):
        assert after[name] <= limit + max(SLACK_SEATS, int(SLACK_SHARE * limit))
    assert len(changes.end) == len(set(changes.end))
    displaced = sum(1 for c in candidates if c.key in changes.end)
    excess = sum(max(0, n - limits[names.index(d)]) for d, n in Counter(c.drafter for c in candidates if c.drafter).items())
    assert displaced <= excess + MOVES
