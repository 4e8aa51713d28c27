"""What steps did and what their time went into: for metrics, and for what learns from it.

Promises: a step reads the time here and nowhere else; counters only grow. `Acceptance.totals` may be called from any thread.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drafthouse.stages.build import by_name
from drafthouse.telemetry.metrics import DEPTHS
from drafthouse.wire.totals import VerifyTotals
from verifier.step import Step, Walks

KEPT = 10_000
"""Samples that wait for an exporter; where there is none, the oldest go."""

LAST = len(DEPTHS)
"""This depth and what lies deeper count together."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One step in numbers: its sequences that decode, its new and its cached tokens; seconds of the run, as expected and as it was, of
    the whole step, and since the step before it ended."""

    sequences: int
    prompt_tokens: int
    nodes: int
    kv_tokens: int
    committed: int
    expected_s: float
    run_s: float
    step_s: float
    busy_s: float

    @property
    def tokens(self) -> int:
        return self.sequences + self.prompt_tokens + self.nodes


class StepMeter:
    """`queue_seconds`: of each request, until its first step began."""

    def __init__(self, clock: Callable[[], float]):
        self.totals, self.acceptance = VerifyTotals(), Acceptance()
        self.queue_seconds: deque[float] = deque(maxlen=KEPT)
        self._clock = clock
        self.started = self._ready = self._chosen = 0.0  # of the step in progress
        self._last_end: float | None = None  # of a step, unless there was nothing to do since
        self._gathering_since: float | None = None

    def start(self) -> float:
        """A step is planned; returns the time."""
        self.started = self._clock()
        return self.started

    def idle(self) -> None:
        """There is nothing to do."""
        self._last_end = self._gathering_since = None

    def wait(self) -> None:
        """The step waits for drafts."""
        if self._gathering_since is None:
            self._gathering_since = self.started

    def ready(self, step: Step) -> None:
        """The device may begin."""
        self._ready = self._clock()
        if self._gathering_since is not None:
            self.totals.gather_seconds += self.started - self._gathering_since
            self._gathering_since = None
        for s in step.plan.sequences:
            if s.arrived is not None:
                self.queue_seconds.append(self.started - s.arrived)
                s.arrived = None

    @contextmanager
    def keeping_states(self) -> Iterator[None]:
        """Inside, hidden states are made ready for drafters."""
        began = self._clock()
        yield
        self.totals.state_seconds += self._clock() - began

    def chose(self) -> float:
        """Tokens are chosen; returns the time."""
        self._chosen = self._clock()
        return self._chosen

    def finish(self, step: Step, walks: Walks, committed: int, run_s: float) -> StepFacts:
        """All that is chosen is committed."""
        plan, selected, now = step.plan, step.selected, self._chosen
        step_s, busy_s = now - self.started, now - (self._last_end if self._last_end is not None else self.started)
        self._last_end = now
        t = self.totals
        t.steps += 1
        t.committed += committed
        t.verified += selected.nodes
        t.accepted += sum(w.accepted for w in walks.walked)
        t.offered += selected.offered
        t.prompt_tokens += plan.prompt_tokens
        t.predicted_tokens += len(walks.walked) + selected.expected_tokens
        t.predicted_seconds += step.expected_s
        t.step_seconds += step_s
        t.select_seconds += self._ready - self.started
        t.run_seconds += run_s
        t.choose_seconds += now - self._ready - run_s
        t.wait_seconds += max(0.0, busy_s - step_s)
        self.acceptance.observe(walks)
        return StepFacts(
            len(plan.decoding), plan.prompt_tokens, selected.nodes, plan.kv_tokens, committed, step.expected_s, run_s, step_s, busy_s
        )


class Acceptance:
    """Where in the trees the target agreed with the drafts, and with whose. Depth 1 lies below the root."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[int, bool]] = Counter()  # accepted nodes of a walk, and whether it ended above further nodes
        self._verified: Counter[int] = Counter()
        self._accepted: Counter[int] = Counter()

    def observe(self, walks: Walks) -> None:
        """One step."""
        for w in walks.walked:
            if w.verified:
                self._ended[w.accepted, w.more] += 1
        self._verified.update(walks.verified)
        self._accepted.update(walks.accepted)

    def totals(self) -> dict[str, float]:
        """By metric key. A depth is reached where a node of it was verified whose parent was accepted."""
        reached, accepted = dict.fromkeys(DEPTHS, 0.0), dict.fromkeys(DEPTHS, 0.0)
        for (depth, more), count in list(self._ended.items()):
            for each in range(1, depth + 1 + more):
                name = DEPTHS[min(each, LAST) - 1]
                reached[name] += count
                accepted[name] += count * (each <= depth)
        named = {"reached_depth": reached, "accepted_depth": accepted}
        named |= {"verified_source": by_name(self._verified), "accepted_source": by_name(self._accepted)}
        return {f"{key}.{value}": number for key, numbers in named.items() for value, number in numbers.items()}
