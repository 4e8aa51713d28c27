"""What the cluster says of itself, asked over and over.

Promises: an answer is never older than the question before the last; asking goes on through every failure, since the
controller that answers is among what fails.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.chaos.overlooked import LOOK_S

POLL_S = 0.2
ANSWER_S = 2.0
"""Twenty times what an answer takes on a busy machine; without one by then the connection to the controller counts as lost."""


class ClusterView:
    """`http` is the caller's. `answered` and `unanswered` are the times (monotonic, seconds) at which the last question was
    put that got an answer, and the last that got none."""

    def __init__(self, http: httpx.AsyncClient):
        self._http = http
        self.state: dict[str, Any] = {}
        self.answered = self.unanswered = float("-inf")

    async def poll(self) -> None:
        """For ever; cancel it."""
        while True:
            asked = time.monotonic()
            try:
                answer = await self._http.get("/v1/cluster", timeout=ANSWER_S)
                answer.raise_for_status()
                self.state, self.answered = answer.json(), asked
            except (httpx.HTTPError, ValueError):
                self.unanswered = asked
            await asyncio.sleep(POLL_S)

    @property
    def fresh(self) -> bool:
        """Whether the last question was answered."""
        return self.answered > self.unanswered

    def pids(self, role: str) -> list[int]:
        """Of the live members of a pool, or of the controller, in the last answer."""
        if role == "controller":
            return [self.state["controller"]["pid"]] if self.state else []
        return [replica["pid"] for replica in self.pool(role)]

    def pool(self, role: str) -> list[dict[str, Any]]:
        """Reports of its live members, in the last answer."""
        return list(self.state.get("pools", {}).get(role, []))

    @property
    def failovers(self) -> float:
        """Requests that went to another verifier, so far."""
        return float(self.state.get("totals", {}).get("gateway", {}).get("failovers", 0.0))

    def sizes(self) -> dict[str, int]:
        """Live replicas of each pool."""
        return {role: len(replicas) for role, replicas in self.state.get("pools", {}).items()}

    def held(self) -> list[str]:
        """What replicas hold of requests: load (requests or sessions) and KV slots, by replica, as text."""
        return [
            f"{name} {value:g} of {role} {replica['replica']}"
            for role, replicas in self.state.get("pools", {}).items()
            for replica in replicas
            for name, value in (("load", replica["load"]), ("kv_slots_used", replica["gauges"].get("kv_slots_used", 0)))
            if value
        ]


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time. What this process was halted, or was late itself, does not count: so was the cluster."""
    for _ in range(round(seconds / LOOK_S)):
        if condition():
            return True
        await asyncio.sleep(LOOK_S)
    return condition()
