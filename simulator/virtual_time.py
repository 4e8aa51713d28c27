"""Seconds that pass only when something takes them: a world's clock with its events, and devices that work beside it."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.segment import Segment
from drafthouse.policy.latency import LatencyModel


@dataclass
class World:
    """Virtual seconds, and what happens when."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def clock(self) -> float:
        return self.now

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def spend(self, seconds: float) -> None:
        """They pass, with all that happens in them."""
        self.advance(self.now + seconds)

    def advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = max(self.now, until)

    def wait(self, until: float) -> None:
        """To the next event, or `until` if that comes first."""
        self.advance(min(until, self._events[0][0]) if self._events else until)


class Device:
    """Computes at once what takes `spent` seconds: its clock is that far ahead of the world's."""

    def __init__(self, world: World):
        self.world, self.spent = world, 0.0

    def clock(self) -> float:
        return self.world.now + self.spent

    def spend(self, seconds: float) -> None:
        self.spent += seconds

    def take(self) -> float:
        """What was spent since the last call."""
        spent, self.spent = self.spent, 0.0
        return spent


class VirtualRunner(ModelRunner):
    """Computes what `runner` does, and has `spend` take the time of it."""

    def __init__(self, runner: ModelRunner, latency: LatencyModel, spend: Callable[[float], None]):
        super().__init__(runner.forward, runner.cache)
        self.latency, self.spend = latency, spend

    def run(self, segments: list[Segment]) -> RunResult:
        result = super().run(segments)
        seconds = self.latency.seconds(sum(map(len, segments)), sum(len(s.kv) for s in segments))
        self.spend(seconds)
        return replace(result, seconds=seconds)
