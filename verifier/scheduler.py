"""Who takes part in the next step, and with how much. No torch, no clock.

Promises: sequences that decode come first and always get their pending token; what is left of the token budget, and never less than a share
of it, goes to prompt chunks, oldest request first; where some are worth more than others, half of it to the oldest and half to those.
Tree nodes may take what both leave, and never less than a share either: beside a full chunk their price limits them, not the budget. When
KV slots run out the youngest sequence is preempted: its tokens are kept, and its KV is computed again later, but for what the prefix cache
still has of it. Requests that wait take turns between clients by their tokens, each client's own in order; those whose turn has come, here
or elsewhere, go first, and one that is worth more than the next may go before it, never two in a row. After a step that failed its
sequences step one by one, until each has got a token alone or is known as the cause. A request that would prefill what a running one
prefills waits for that, and those behind it with it. A plan takes time linear in the running sequences and in the tokens of those it admits
and preempts; adding and removing one takes no more, but where some are worth more: then each that is admitted looks at all that wait.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from drafthouse.config.serving import VerifierConfig
from drafthouse.engine.kv_cache import SlotAllocator
from drafthouse.engine.prefix_cache import LEAST_SHARED, common_length
from drafthouse.policy.fair_queue import FairQueue
from verifier.sequence import Sequence

PROMPT_SHARE = 8
"""An eighth of a step's tokens is for prompt chunks, however many sequences decode: requests must get through their prompts to end."""

SCORED_ROWS = 256
"""Prompt tokens of a step whose logits are all needed. Each row takes as many floats as the vocabulary has tokens: 50 MB for 49,152."""

TREE_SHARE = 4
"""Tree nodes may come to a quarter of a step's tokens, however full prompt chunks make it. They come on top: a chunk cut short by a few
tokens would cost its request a whole step before its first token."""


@dataclass(slots=True)
class StepPlan:
    """`decoding` sequences bring their root (and maybe a tree), `prefilling` this many tokens each; together they have `kv_tokens`
    in the cache."""

    decoding: list[Sequence] = field(default_factory=list)
    prefilling: list[tuple[Sequence, int]] = field(default_factory=list)
    kv_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(count for _, count in self.prefilling)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.decoding, *(sequence for sequence, _ in self.prefilling)]

    @property
    def begins(self) -> bool:
        """Whether it has prompt chunks, or the first token of a text: all of its prompt may be cached."""
        return bool(self.prefilling) or any(len(s.tokens) == s.prompt_len for s in self.decoding)

    def without(self, late: list[Sequence]) -> "StepPlan":
        """The same step, without some of those that decode."""
        left_out = set(late)
        decoding = [sequence for sequence in self.decoding if sequence not in left_out]
        return StepPlan(decoding, self.prefilling, self.kv_tokens - sum(len(sequence.kv) for sequence in late))


class Scheduler:
    """Ordered sets of sequences, the one that came first in front. `ended` counts those that were removed after they had begun,
    `cached_tokens` the tokens that sequences found in the prefix cache when they began."""

    def __init__(self, config: VerifierConfig, allocator: SlotAllocator):
        self.config, self.allocator = config, allocator
        self.waiting: OrderedDict[Sequence, None] = OrderedDict()
        self.running: OrderedDict[Sequence, None] = OrderedDict()
        self.suspects: OrderedDict[Sequence, None] = OrderedDict()  # of a failed step; no other runs until these are cleared
        self.preemptions = 0
        self.ended = 0
        self.cached_tokens = 0
        self._turns = FairQueue[Sequence](lambda sequence: sequence.worth)  # those that wait, in fair order between clients
        self._lacks_room = False  # for the first of those that wait, by the last plan
        self._refused: tuple[Sequence, int] | None = None  # the head that did not fit, and the slots that were left for it

    @property
    def in_service(self) -> int:
        return len(self.running) + len(self.suspects)

    @property
    def full(self) -> bool:
        """Whether no more requests may wait: the queue holds `max_queue`, and those that will be admitted to the next step."""
        return len(self.waiting) >= self.config.max_queue + max(0, self.config.max_sequences - self.in_service)

    @property
    def overfull(self) -> bool:
        """Whether as many requests wait beyond a full queue as another verifier of this size can have had, running and waiting."""
        beyond = self.config.max_queue + self.config.max_sequences
        return len(self.waiting) >= self.config.max_queue + max(0, self.config.max_sequences - self.in_service) + beyond

    @property
    def held_up(self) -> int:
        """Requests that wait for want of room, and not only for the next step or for what another prefills."""
        return len(self.waiting) if self._lacks_room else 0

    def add(self, sequence: Sequence) -> None:
        self.waiting[sequence] = None
        request = sequence.request
        if request.had_turn:
            self._turns.put_behind_those_put_back(sequence)
            return
        left = len(request.prompt) + request.max_tokens - len(request.delivered)
        self._turns.add(sequence, request.cache_key, left, request.uneven)

    def remove(self, sequence: Sequence) -> None:
        for those in (self.running, self.suspects):
            if sequence in those:
                del those[sequence]
                self.ended += 1
        self.waiting.pop(sequence, None)
        self._turns.remove(sequence)
        sequence.kv.retire(sequence.tokens)

    def give_back(self, count: int, wanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """The first `count` of those that wait and are wanted, in fair order. They have had their turn, and are to be removed."""
        return self._turns.take_some(count, wanted)

    def suspect(self) -> None:
        """After a step that failed: the KV of all that ran may be spoilt, and one of them may be the cause."""
        for sequence in self.running:
            sequence.kv.release()
        self.allocator.forget_prefixes()
        self._refused = None
        self.suspects.update(self.running)
        self.running.clear()

    def clear(self, sequence: Sequence) -> None:
        """The sequence has got a token, so it is not what made a step fail: it runs with the others again."""
        if self.suspects and _first(self.suspects) is sequence:
            del self.suspects[sequence]
            self.running[sequence] = None

    def plan(self) -> StepPlan:
        """The next step. Admits waiting sequences and preempts running ones as KV slots allow."""
        plan = self._plan_alone(_first(self.suspects)) if self.suspects else self._plan()
        plan.kv_tokens = sum([len(sequence.kv) for sequence in plan.sequences])
        return plan

    def node_limit(self, plan: StepPlan) -> int:
        """Tree nodes that the step may hold, by tokens and by free KV slots. The slots of a chunk stay with it."""
        taken, budget = len(plan.decoding) + plan.prompt_tokens, self.config.step_tokens
        return max(0, min(self.allocator.free_count - taken, max(budget - taken, budget // TREE_SHARE)))

    def _plan_alone(self, sequence: Sequence) -> StepPlan:
        if not sequence.kv:
            sequence.begin()
        count = min(sequence.pending, self.config.step_tokens, SCORED_ROWS if sequence.unscored else sequence.pending)
        self._make_room(count)
        return StepPlan([sequence], []) if count == 1 else StepPlan([], [(sequence, count)])

    def _plan(self) -> StepPlan:
        self._admit()
        plan, free = StepPlan(), self.allocator.free_count
        for sequence in list(self.running):
            if sequence.pending != 1 or sequence not in self.running:
                continue
            if free <= len(plan.decoding):  # the youngest gives way: never one that is planned already
                self._make_room(1 + len(plan.decoding), sequence)
                free = self.allocator.free_count
            if sequence in self.running:
                plan.decoding.append(sequence)
        if len(plan.decoding) < len(self.running):
            budget = max(self.config.step_tokens - len(plan.decoding), self.config.step_tokens // PROMPT_SHARE)
            room = min(budget, self.allocator.free_count - len(plan.decoding))
            plan.prefilling = _chunks([s for s in self.running if s.pending > 1], room)
        if self.running and not plan.decoding and not plan.prefilling:
            self._preempt(next(reversed(self.running)))
            return self._plan()
        return plan

    def _admit(self) -> None:
        """Takes waiting requests, in fair order, while their tokens fit beside what the running ones still prefill."""
        self._lacks_room = bool(self.waiting) and len(self.running) >= self.config.max_sequences
        if not self.waiting or self._lacks_room:
            return
        reserved_slots = sum(s.pending for s in self.running)
        while self.waiting and len(self.running) < self.config.max_sequences:
            first = self._turns.first()
            if not self._begin(first, reserved_slots):
                return
            reserved_slots += first.pending + 1
            self._turns.take()
            del self.waiting[first]
            self.running[first] = None
        self._lacks_room = bool(self.waiting)

    def _begin(self, sequence: Sequence, reserved_slots: int) -> bool:
        """Lets it take over what is cached of its tokens, if the others fit beside `reserved_slots` and no one is about to cache more.

        What runs leases no more of its tokens unless it prefills. So one that did not fit fits only when more slots are left, and is
        not matched with the cache before. The number is kept up to date: slots that a sequence gives back let it match again, which
        makes its prefix the last to be evicted.
        """
        left = self.allocator.free_count - reserved_slots
        if self._refused is not None and self._refused[0] is sequence and left <= self._refused[1]:
            self._refused, self._lacks_room = (sequence, left), True
            return False
        self._refused = None
        sequence.begin()
        self._lacks_room = sequence.pending + 1 + reserved_slots > self.allocator.free_count
        if self._lacks_room or self._is_prefilled_by_another(sequence):
            sequence.kv.release()
            if reserved_slots == len(self.running):  # one for each: all decode
                self._refused = sequence, left
            return False
        self.cached_tokens += len(sequence.kv)
        sequence.begun()
        return True

    def _is_prefilled_by_another(self, sequence: Sequence) -> bool:
        """Whether a running sequence prefills what this one would, too. It shares each chunk, so the wait ends with the common part."""
        if self.allocator.prefixes is None or sequence.unscored:
            return False
        key, least = sequence.request.cache_key, len(sequence.kv) + LEAST_SHARED
        prefilling = (s for s in self.running if s.pending > 1 and s.request.cache_key == key)
        return any(common_length(s.tokens, sequence.tokens) >= least for s in prefilling)

    def _make_room(self, slots: int, keep: Sequence | None = None) -> None:
        """Preempts from the youngest on until `slots` are free; `keep` itself goes last."""
        while self.allocator.free_count < slots and self.running:
            victim = next(reversed(self.running))
            self._preempt(victim)
            if victim is keep:
                return

    def _preempt(self, sequence: Sequence) -> None:
        del self.running[sequence]
        sequence.kv.retire(sequence.tokens)
        self.waiting[sequence] = None
        self.waiting.move_to_end(sequence, last=False)
        self._turns.put_back(sequence)
        self.preemptions += 1


def _chunks(prefilling: list[Sequence], tokens: int) -> list[tuple[Sequence, int]]:
    """Of the prompts, oldest first, at most `tokens` in all."""
    chunks, left, scored = dict[Sequence, int](), tokens, SCORED_ROWS
    for sequence, most in _by_worth(prefilling, tokens):
        pending = sequence.pending - chunks.get(sequence, 0)
        count = min(pending, left, most, scored if sequence.unscored else pending)
        if count > 0:
            chunks[sequence] = chunks.get(sequence, 0) + count
            left -= count
            scored -= count if sequence.unscored else 0
    return list(chunks.items())


def _by_worth(prefilling: list[Sequence], tokens: int) -> list[tuple[Sequence, int]]:
    """In which order they get how many of the `tokens`, at most: by age, and half of them by worth where one is worth more than another."""
    if not any(sequence.request.uneven for sequence in prefilling):
        return [(sequence, tokens) for sequence in prefilling]
    return [(prefilling[0], tokens - tokens // 2), *((s, tokens) for s in sorted(prefilling, key=lambda s: -s.worth))]


def _first(sequences: OrderedDict[Sequence, None]) -> Sequence:
    return next(iter(sequences))
