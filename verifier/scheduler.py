"""Who takes part in the next step, and with how much. No torch, no clock.

Promises: sequences that decode come first and always get their pending token; what is left of the
token budget, and never less than a share of it, goes to prompt chunks, oldest request first. When KV slots run out the youngest
sequence is preempted: its KV is freed and computed again later, its tokens are kept. After a step that failed its
sequences step one by one, until each has got a token alone or is known as the cause.
"""

from collections import deque
from dataclasses import dataclass, field

from drafthouse.config import VerifierConfig
from drafthouse.engine.kv_cache import SlotAllocator
from drafthouse.errors import OverloadError
from verifier.sequence import Sequence

PROMPT_SHARE = 8
"""One part in so many of a step's tokens is for prompt chunks, however many sequences decode: they are what ends the crowd."""


@dataclass(slots=True)
class Plan:
    """`decoding` sequences bring their root (and maybe a tree), `prefilling` so many tokens each."""

    decoding: list[Sequence] = field(default_factory=list)
    prefilling: list[tuple[Sequence, int]] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        return sum(count for _, count in self.prefilling)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.decoding, *(sequence for sequence, _ in self.prefilling)]


class Scheduler:
    def __init__(self, config: VerifierConfig, allocator: SlotAllocator):
        self.config, self.allocator = config, allocator
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.suspects: deque[Sequence] = deque()  # of a failed step; no other runs until these are cleared
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Raises OverloadError when the queue is full."""
        if len(self.waiting) >= self.config.max_queue + self._places():
            raise OverloadError(f"{len(self.waiting)} requests wait already")
        self.waiting.append(sequence)

    def _places(self) -> int:
        return max(0, self.config.max_sequences - len(self.running) - len(self.suspects))

    def remove(self, sequence: Sequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.suspects:
            self.suspects.remove(sequence)
        sequence.kv.release()

    def suspect(self) -> None:
        """After a step that failed: the KV of all that ran may be spoilt, and one of them may be the cause."""
        for sequence in self.running:
            sequence.kv.release()
        self.suspects.extend(self.running)
        self.running.clear()

    def clear(self, sequence: Sequence) -> None:
        """It has got a token."""
        if self.suspects and self.suspects[0] is sequence:
            self.running.append(self.suspects.popleft())

    def plan(self) -> Plan:
        return self._plan_alone(self.suspects[0]) if self.suspects else self._plan()

    def _plan_alone(self, sequence: Sequence) -> Plan:
        count = min(sequence.pending, self.config.step_tokens)
        self._make_room(count)
        return Plan([sequence], []) if count == 1 else Plan([], [(sequence, count)])

    def _plan(self) -> Plan:
        self._admit()
        plan = Plan()
        i = 0
        while i < len(self.running):  # who gives way stands at the end, so those before `i` stay
            sequence = self.running[i]
            if sequence.pending == 1:
                self._make_room(1 + len(plan.decoding), sequence)
                if i == len(self.running):
                    break
                plan.decoding.append(sequence)
            i += 1
        budget = max(self.config.step_tokens - len(plan.decoding), self.config.step_tokens // PROMPT_SHARE)
        free = self.allocator.free_count - len(plan.decoding)
        for sequence in self.running:
            if sequence.pending > 1 and (count := min(sequence.pending, budget, free)) > 0:
                plan.prefilling.append((sequence, count))
                budget -= count
                free -= count
        if self.running and not plan.decoding and not plan.prefilling:
            self._preempt(self.running[-1])
            return self._plan()
        return plan

    def _admit(self) -> None:
        """Takes waiting requests, in order, while their tokens fit beside what the running ones still prefill."""
        promised = sum(s.pending for s in self.running)
        while self.waiting and len(self.running) < self.config.max_sequences:
            wanted = len(self.waiting[0].tokens) + 1
            if wanted + promised > self.allocator.free_count:
                return
            promised += wanted
            self.running.append(self.waiting.popleft())

    def _make_room(self, slots: int, keep: Sequence | None = None) -> None:
        """Preempts from the youngest on until `slots` are free; `keep` itself goes last."""
        while self.allocator.free_count < slots and self.running:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is keep:
                return

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.kv.release()
        self.waiting.appendleft(sequence)
        self.preemptions += 1
