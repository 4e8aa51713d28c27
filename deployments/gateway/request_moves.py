"""Moves a gateway's requests to other verifiers, as `drafthouse/policy/moves.py` decides with each routing table.

Promises: which request of those that wait is given back is the verifier's to say, in its fair order, and only what still waits is. A
stream that moves is left at once, which frees what it holds there, and goes on elsewhere like one whose verifier drains. After any move
all stay where they are until a routing table can show it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.gateway.request_progress import Moved, RequestProgress
from deployments.gateway.verifier_stream import Call, VerifierStream
from drafthouse.policy.moves import Draw, Seats, Stream, one_text, stream_moves, uneven, waiting_moves
from drafthouse.policy.verifier_routes import VerifierRoutes
from drafthouse.wire.dialect import Feature
from drafthouse.wire.generation_messages import GiveBack
from drafthouse.wire.membership import Route

REST_INTERVALS = 3.0
"""A verifier tells of a move with its next report, the controller tells a gateway with the answer to its next one, and both may be late."""

QUIET_S = 1.0
"""A stream without a token for this long may wait, since it was preempted or came to a queue."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of one request, since `began` (seconds, monotonic)."""

    stream: VerifierStream
    route: Route
    progress: RequestProgress
    began: float


class RequestMoves:
    def __init__(self, routes: VerifierRoutes, draw: Draw) -> None:
        self._routes, self._draw = routes, draw
        self._rests_until = -math.inf

    def tabled(self, running: Mapping[Call, Attempt], interval_s: float, now: float) -> None:
        """There is a new routing table, and the next one comes after `interval_s`."""
        if now < self._rests_until:
            return
        seats = self._routes.seats(now)
        if not uneven(seats):
            return
        facts = {call: _facts(call, attempt, now) for call, attempt in running.items()}
        if self._ask_back(seats, running, facts) or self._leave(seats, running, facts):
            self._rests_until = now + REST_INTERVALS * interval_s

    def _ask_back(self, seats: list[Seats], running: Mapping[Call, Attempt], facts: Mapping[Call, Stream]) -> bool:
        counts = waiting_moves(seats, facts.values(), self._draw)
        begun = {one.route.replica: one_text(one, seats) for one in seats}
        streams = {attempt.route.replica: attempt.stream for attempt in running.values()}
        asked = {name: count for name, count in counts.items() if Feature.GIVE_BACK in streams[name].peer.features}
        for replica, count in asked.items():
            streams[replica].ask_back(GiveBack(count, begun[replica]))
        return bool(asked)

    def _leave(self, seats: list[Seats], running: Mapping[Call, Attempt], facts: Mapping[Call, Stream]) -> bool:
        leaving = stream_moves(seats, facts, self._draw)
        for call in leaving:
            running[call].stream.leave(call)
            call.end(Moved("spread"))
        return bool(leaving)


def _facts(call: Call, attempt: Attempt, now: float) -> Stream:
    """A client that is behind with reading would gain nothing, so its pace is not told."""
    pace, request, output_tokens = call.pace, attempt.progress.request, len(attempt.progress.delivered)
    return Stream(
        verifier=attempt.route.replica,
        waits=pace.first_at is None or now - pace.last_at >= QUIET_S,
        text_tokens=len(request.prompt) + output_tokens,
        output_tokens=output_tokens,
        left_tokens=request.max_tokens - output_tokens,
        pace_tokens=0 if call.unread else pace.tokens,
        pace_seconds=pace.last_at - pace.first_at if pace.first_at is not None else 0.0,
        spreads=attempt.progress.spreads,
    )
