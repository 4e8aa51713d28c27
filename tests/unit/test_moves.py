"""Which requests a gateway moves: never to a fuller place, never for less than a move costs, and a pool with a fixed load comes to rest."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.policy.moves import (
    LONGEST_PAUSE_S,
    MOST_SPREADS,
    PACE_TOKENS,
    STEPS,
    WORTH,
    Seats,
    Stream,
    one_text,
    stream_moves,
    uneven,
    waiting_moves,
)
from drafthouse.policy.set_aside import FIRST_S
from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.wire.membership import Route

LEAST_S, PER_REQUEST_S, PROMPT_TOKEN_S = 0.010, 0.002, 1e-5
PLACES = 32
"""Of a verifier, where a test does not say."""


def seats(replica: str, load: int, places: int = PLACES, held_up: int = 0, **more: object) -> Seats:
    """Steps take 10 ms, and 2 ms more for each request beyond the first."""
    step_s = LEAST_S + PER_REQUEST_S * max(0, min(load, places) - 1)
    route = Route(
        replica, f"{replica}:1", "f", load, 8 * places, max_sequences=places, held_up=held_up, kv_slots_free=1 << 20,
        step_seconds=step_s, step_seconds_least=LEAST_S, prompt_token_seconds=PROMPT_TOKEN_S,
    )  # fmt: skip
    return Seats(replace(route, **more), load, 0 if held_up else max(0, places - load))


WAITING = Stream("a", waits=True, text_tokens=100, output_tokens=0, left_tokens=500)
RUNNING = Stream("a", waits=False, text_tokens=400, output_tokens=300, left_tokens=700, pace_tokens=100, pace_seconds=3.0)


def moved(pool: Sequence[Seats], streams: Sequence[Stream], seed: int = 0) -> list[Stream]:
    return [streams[i] for i in stream_moves(pool, dict(enumerate(streams)), random.Random(seed).random)]


def never() -> float:
    """Chance rounds down."""
    return 0.999


def test_what_waits_goes_where_there_is_room_and_no_more_of_it() -> None:
    for held_up, room, goes in ((10, 4, 4), (3, 8, 3), (10, 0, 0)):
        pool = [seats("a", PLACES + held_up, held_up=held_up), seats("b", PLACES - room)]
        assert uneven(pool) == bool(goes)
        assert waiting_moves(pool, [WAITING] * held_up, never) == ({"a": goes} if goes else {})


def test_two_queues_share_the_room_by_their_lengths() -> None:
    pool = [seats("a", PLACES + 12, held_up=12), seats("b", PLACES + 4, held_up=4), seats("c", PLACES - 8)]
    streams = [WAITING] * 12 + [replace(WAITING, verifier="b")] * 4
    assert waiting_moves(pool, streams, never) == {"a": 6, "b": 2}


def test_each_gateway_moves_its_part_of_what_waits() -> None:
    """Twelve wait for eight places: of three gateways one has six of them, one four and one two."""
    pool = [seats("a", PLACES + 12, held_up=12), seats("b", PLACES - 8)]
    draw = random.Random(1).random
    counts = [sum(waiting_moves(pool, [WAITING] * mine, draw).get("a", 0) for mine in (6, 4, 2)) for _ in range(200)]
    assert sum(counts) / len(counts) == pytest.approx(8.0, abs=0.2)
    assert max(counts) <= 10, "no more than all of them rounded up"


def test_texts_that_do_not_fit_into_what_is_free_do_not_go() -> None:
    pool = [seats("a", PLACES + 10, held_up=10), seats("b", 0, kv_slots_free=350)]
    assert waiting_moves(pool, [WAITING] * 10, never) == {"a": 3}


def test_a_text_goes_on_at_verifiers_of_its_fingerprint_alone() -> None:
    a, b, c = seats("a", PLACES + 3, held_up=3), seats("b", 0), seats("c", 0, fingerprint="other")
    assert one_text(a, [a, b, replace(c, room=0)])
    assert not one_text(a, [a, b, c])
    assert waiting_moves([a, c], [WAITING] * 3, never) == {"a": 3}, "one that has not begun may have any target"


def test_streams_spread_to_a_verifier_that_comes_back_empty() -> None:
    pool = [seats("a", 16), seats("b", 0)]
    assert uneven(pool)
    assert len(moved(pool, [RUNNING] * 16)) == 8


def test_each_gateway_spreads_its_part_of_the_streams() -> None:
    pool = [seats("a", 16), seats("b", 0)]
    counts = [sum(len(moved(pool, [RUNNING] * mine, 3 * seed + i)) for i, mine in enumerate((8, 5, 3))) for seed in range(200)]
    assert sum(counts) / len(counts) == pytest.approx(8.0, abs=0.2)


@pytest.mark.parametrize(
    ("pool", "why"),
    [
        ([seats("a", 8), seats("b", 7)], "even"),
        ([seats("a", 1), seats("b", 0)], "a single stream"),
        ([seats("a", 16), seats("b", 0, fingerprint="other")], "another text there"),
        ([seats("a", 16), replace(seats("b", 0), room=0)], "something speaks against the empty one"),
        ([seats("a", 16), seats("b", 0), seats("c", PLACES + 4, held_up=4)], "what waits goes first"),
        ([seats("a", 16, places=0), seats("b", 0, places=0)], "a verifier that does not say how many run at once"),
    ],
)
def test_streams_stay(pool: list[Seats], why: str) -> None:
    assert moved(pool, [RUNNING] * 16) == [], why


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (replace(RUNNING, pace_tokens=PACE_TOKENS - 1), "its pace is not known"),
        (replace(RUNNING, spreads=MOST_SPREADS), "moved often enough"),
        (replace(RUNNING, left_tokens=1), "about to end"),
        (replace(RUNNING, text_tokens=60_000), "a pause of 0.6 s"),
        (replace(RUNNING, waits=True), "it does not run"),
    ],
)
def test_a_stream_stays(stream: Stream, why: str) -> None:
    assert moved([seats("a", 16), seats("b", 0)], [stream] * 16) == [], why


def test_streams_stay_where_steps_take_as_long_with_fewer() -> None:
    flat = {"step_seconds": LEAST_S, "step_seconds_least": LEAST_S}
    assert moved([seats("a", 16, **flat), seats("b", 0, **flat)], [RUNNING] * 16) == []
    unknown = {"step_seconds": 0.0, "step_seconds_least": 0.0}
    assert moved([seats("a", 16, **unknown), seats("b", 0, **unknown)], [RUNNING] * 16) == []


def test_free_kv_slots_bound_what_moves() -> None:
    assert len(moved([seats("a", 16), seats("b", 0, kv_slots_free=2500)], [RUNNING] * 16)) == 3


def test_the_shortest_texts_go_first_while_the_gain_is_worth_the_pause() -> None:
    """Each moved stream waits for the prefill of those before it. 300 tokens at 30 ms are 9 s, of which eight of sixteen save a third."""
    streams = [replace(RUNNING, text_tokens=1000 * (i + 1)) for i in range(16)]
    gone = moved([seats("a", 16), seats("b", 0)], streams)
    assert gone == streams[: len(gone)]
    step_s = LEAST_S + 15 * PER_REQUEST_S
    pauses = [STEPS * step_s + PROMPT_TOKEN_S * 1000 * (i + 1) * (i + 2) / 2 for i in range(16)]
    assert len(gone) == sum(pause_s <= LONGEST_PAUSE_S for pause_s in pauses[:8]) == 8
    slow = [replace(stream, output_tokens=64, pace_seconds=1.0) for stream in streams]
    gain_s = 64 * 0.01 * (1 - (LEAST_S + 7 * PER_REQUEST_S) / step_s)
    assert len(moved([seats("a", 16), seats("b", 0)], slow)) == sum(gain_s > WORTH * pause_s for pause_s in pauses) == 2


def test_a_verifier_that_has_failed_is_tried_by_one_request_alone() -> None:
    routes = VerifierRoutes(never)
    a, b = seats("a", PLACES + 10, held_up=10).route, seats("b", 0).route
    routes.replace((a, b))
    assert [one.room for one in routes.seats(0.0)] == [0, PLACES]
    routes.gone("b", 0.0)
    assert [one.room for one in routes.seats(FIRST_S / 2)] == [0, 0]
    assert [one.room for one in routes.seats(FIRST_S)] == [0, 1]
    routes.full("b", FIRST_S)
    assert [one.room for one in routes.seats(FIRST_S)] == [0, 0]


def test_a_queue_that_stands_shows_that_no_place_is_free() -> None:
    """Places may be free where KV slots are not."""
    routes = VerifierRoutes(never)
    routes.replace((seats("a", 4, held_up=1).route, replace(seats("b", 5).route, capacity=6)))
    assert [one.room for one in routes.seats(0.0)] == [0, PLACES - 5]
    routes.replace((replace(seats("a", 4, held_up=1).route, caches_prefixes=True), seats("b", 4).route))
    blocks = [1, 2, 3]
    routes.started(routes._routes[0], 0.0, blocks)
    assert routes.pick(None, (), 0.0, blocks).replica == "b", "what its cache has is no reason to wait there"


@dataclass
class Pool:
    """Verifiers with streams that never end, by gateway; each round every gateway decides by the same table, and all moves are made."""

    places: dict[str, int]
    streams: list[tuple[int, Stream]]
    moves: int = 0

    def table(self) -> list[Seats]:
        loads = Counter(stream.verifier for _, stream in self.streams)
        return [seats(name, loads[name], places) for name, places in self.places.items()]

    def round(self, rng: random.Random) -> int:
        table, leaving = self.table(), list[int]()
        for gateway in sorted({gateway for gateway, _ in self.streams}):
            mine = {i: stream for i, (owner, stream) in enumerate(self.streams) if owner == gateway}
            leaving += stream_moves(table, mine, rng.random)
        for i in leaving:
            gateway, stream = self.streams[i]
            others = [one for one in self.table() if one.route.replica != stream.verifier]
            to = min(others, key=lambda one: one.load / one.route.max_sequences)
            self.streams[i] = gateway, replace(stream, verifier=to.route.replica, spreads=stream.spreads + 1)
        self.moves += len(leaving)
        return len(leaving)


@st.composite
def pools(draw: st.DrawFn, gateways: int) -> Pool:
    places = {name: draw(st.integers(4, 16)) for name in "abcd"[: draw(st.integers(2, 4))]}
    streams = []
    for name, most in places.items():
        for _ in range(draw(st.integers(0, most))):
            streams.append((draw(st.integers(1, gateways)), replace(RUNNING, verifier=name, text_tokens=draw(st.integers(1, 200)))))
    return Pool(places, streams)


@given(pools(gateways=1), st.randoms(use_true_random=False))
def test_a_gateway_alone_moves_to_emptier_places_only_and_comes_to_rest(pool: Pool, rng: random.Random) -> None:
    over = sum(max(0.0, one.load - _mean(pool) * one.route.max_sequences) for one in pool.table())
    for _ in range(len(pool.streams) + 1):
        before = {one.route.replica: one.load for one in pool.table()}
        if not pool.round(rng):
            break
        for one in pool.table():
            mean = _mean(pool) * one.route.max_sequences
            if one.load > before[one.route.replica]:
                assert one.load < mean + 1, "between equals a request may go to either"
            elif one.load < before[one.route.replica]:
                assert one.load >= mean
    assert pool.round(rng) == 0
    assert pool.moves <= over


@given(pools(gateways=4), st.randoms(use_true_random=False))
def test_several_gateways_come_to_rest(pool: Pool, rng: random.Random) -> None:
    """Each rounds by chance, so that together they may move too many: then some come back, fewer each time."""
    rounds = [pool.round(rng) for _ in range(30)]
    assert rounds[-5:] == [0] * 5
    assert max((stream.spreads for _, stream in pool.streams), default=0) <= MOST_SPREADS


def _mean(pool: Pool) -> float:
    return len(pool.streams) / sum(pool.places.values())


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=2, max_size=5),
    st.lists(st.integers(0, 40), min_size=5, max_size=5),
    st.randoms(use_true_random=False),
)
def test_no_more_is_asked_back_than_waits_and_there_is_room_for(
    verifiers: list[tuple[int, int]], mine: list[int], rng: random.Random
) -> None:
    pool = [seats(str(i), load, places, max(0, load - places)) for i, (places, load) in enumerate(verifiers)]
    streams = [replace(WAITING, verifier=str(i)) for i in range(len(pool)) for _ in range(mine[i])]
    counts = waiting_moves(pool, streams, rng.random)
    room, held = sum(one.room for one in pool), {one.route.replica: one.route.held_up for one in pool}
    assert all(count <= min(held[name], mine[int(name)]) for name, count in counts.items())
    assert sum(counts.values()) <= room + len(counts), "each may have rounded up"
    if len([one for one in pool if one.route.held_up]) == 1:
        assert sum(counts.values()) <= room
