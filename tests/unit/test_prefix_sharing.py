"""Sequences that share KV: the scheduler's own, whatever comes, ends, fails or gives way; and who waits for whom."""

from collections.abc import Sequence as TypingSequence

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drafthouse.config.serving import VerifierConfig
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.prefix_cache import LEAST_SHARED
from drafthouse.noise import mix64
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from verifier.scheduler import Scheduler, StepPlan
from verifier.sequence import Sequence

KEYS = ("", "one")


def content(key: str, tokens: TypingSequence[int]) -> list[int]:
    """What the slots of a text should hold: a hash of all up to there, as true keys and values depend on all of it."""
    hashes, state = [], len(key)
    for token in tokens:
        state = mix64(state * 31 + token + 1)
        hashes.append(state >> 2)
    return hashes


class Setting:
    """A scheduler with a KV cache and no model: `run` writes into the slots what a step would, never into shared ones."""

    def __init__(self, slots: int, max_sequences: int = 8, step_tokens: int = 16):
        self.cache = KvCache(1, 1, 1, slots, torch.int64, torch.device("cpu"))
        self.cache.share_prefixes()
        config = VerifierConfig(max_sequences=max_sequences, max_queue=1000, step_tokens=step_tokens)
        self.scheduler = Scheduler(config, self.cache.allocator)
        self.sequences: list[Sequence] = []
        self.names = self.prefilled = 0

    def add(self, tokens: TypingSequence[int], max_tokens: int = 4, key: str = "") -> Sequence:
        self.names += 1
        request = GenerateRequest(
            str(self.names), 1, tuple(tokens), (), SamplingParams(), 0, max_tokens, (), Speculation(), cache_key=key
        )  # fmt: skip
        sequence = Sequence(request, KvSequence(self.cache, key), None)
        sequence.arrived = 0.0
        self.sequences.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def write(self, sequence: Sequence, hashes: list[int]) -> None:
        """Into the newest entries."""
        slots = sequence.kv.slots[len(sequence.kv) - len(hashes) :]
        assert self.cache.allocator.prefixes is not None
        assert not set(slots) & set(self.cache.allocator.prefixes.slots()), "a shared slot was written"
        self.cache.data[0, 0, 0, slots, 0] = torch.tensor(hashes)

    def run(self, plan: StepPlan, tree: int = 0) -> None:
        """Decoding sequences bring a chain of `tree` nodes, of which every second sequence accepts one, and commit token 1."""
        for sequence, count in plan.prefilling:
            self.prefilled += count
            sequence.arrived = None
            first = len(sequence.kv)
            sequence.kv.extend(count)
            self.write(sequence, self.of(sequence)[first : first + count])
            sequence.kv.share(sequence.tokens)
            if not sequence.pending:
                self.commit(sequence, [1])
        for i, sequence in enumerate(plan.decoding):
            sequence.arrived = None
            nodes = min(tree, self.cache.allocator.free_count - len(plan.decoding) + i)
            sequence.kv.extend(1 + nodes)
            self.write(sequence, content(sequence.kv.key, sequence.tokens + [1] * nodes)[-1 - nodes :])
            accepted = min(nodes, i % 2)
            sequence.kv.keep(len(sequence.tokens), [len(sequence.tokens) + n for n in range(accepted)])
            self.commit(sequence, [1] * (accepted + 1))

    def of(self, sequence: Sequence) -> list[int]:
        return content(sequence.kv.key, sequence.tokens)

    def commit(self, sequence: Sequence, tokens: list[int]) -> None:
        sequence.tokens += tokens[: sequence.request.max_tokens - sequence.output_len]
        self.scheduler.clear(sequence)
        if sequence.output_len >= sequence.request.max_tokens:
            self.end(sequence)

    def end(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.sequences.remove(sequence)

    def step(self, tree: int = 0) -> StepPlan:
        plan = self.scheduler.plan()
        tokens = len(plan.decoding) + plan.prompt_tokens
        assert tokens <= self.cache.allocator.free_count, "a plan that does not fit would fail its requests"
        self.run(plan, tree)
        return plan

    def check(self) -> None:
        """Every slot has one owner: the free list, the tree or one sequence. Each holds what its text says."""
        allocator, prefixes = self.cache.allocator, self.cache.allocator.prefixes
        assert prefixes is not None
        allocator.check_integrity()
        own = [slot for s in self.sequences for slot in s.kv.slots[s.kv.shared :]]
        cached = list(prefixes.slots())
        assert sorted([*own, *cached, *allocator._free]) == list(range(allocator.count))
        for s in self.sequences:
            assert set(s.kv.slots[: s.kv.shared]) <= set(cached)
            assert self.cache.data[0, 0, 0, s.kv.slots, 0].tolist() == self.of(s)[: len(s.kv)]


texts = st.lists(st.integers(0, 1), min_size=1, max_size=24)


class Sharing(RuleBasedStateMachine):
    """Few slots, so that much gives way, and texts that begin alike."""

    def __init__(self) -> None:
        super().__init__()
        self.it = Setting(slots=48, max_sequences=4)

    @rule(tokens=texts, max_tokens=st.integers(1, 12), key=st.sampled_from(KEYS))
    def submit(self, tokens: list[int], max_tokens: int, key: str) -> None:
        self.it.add(tokens, max_tokens, key)

    @rule(times=st.integers(1, 4), tree=st.integers(0, 5))
    def step(self, times: int, tree: int) -> None:
        for _ in range(times):
            self.it.step(tree)

    @precondition(lambda self: self.it.sequences)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.it.end(data.draw(st.sampled_from(self.it.sequences)))

    @precondition(lambda self: self.it.scheduler.running)
    @rule()
    def preempt(self) -> None:
        self.it.scheduler._preempt(next(reversed(self.it.scheduler.running)))

    @rule()
    def fail(self) -> None:
        """A step raises before it has written anything: its entries are not for others."""
        plan = self.it.scheduler.plan()
        for sequence, count in [*((s, 1) for s in plan.decoding), *plan.prefilling]:
            sequence.kv.extend(count)
        if self.it.scheduler.suspects:
            for sequence in plan.sequences:
                sequence.kv.release()
                self.it.end(sequence)
        else:
            self.it.scheduler.suspect()

    @invariant()
    def no_slot_is_lost_or_has_two_owners(self) -> None:
        self.it.check()

    @invariant()
    def what_is_refused_unseen_does_not_fit(self) -> None:
        scheduler, allocator = self.it.scheduler, self.it.cache.allocator
        head = next(iter(scheduler.waiting), None)
        reserved = sum(s.pending for s in scheduler.running)
        if head is None or scheduler.suspects or scheduler._refused is None or scheduler._refused[0] is not head:
            return
        if allocator.free_count - reserved <= scheduler._refused[1]:
            head.begin()
            assert head.pending + 1 + reserved > allocator.free_count
            head.kv.release()

    def teardown(self) -> None:
        for _ in range(1000):
            if not self.it.sequences:
                break
            self.it.step()
        assert not self.it.sequences, "a request never ended"
        self.it.check()
        assert self.it.cache.allocator.free_count == self.it.cache.allocator.count, "a lease was never ended"


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def finish(it: Setting) -> None:
    while it.sequences:
        it.step()
        it.check()


COMMON = [0, 1] * 40


def test_requests_with_a_common_beginning_prefill_it_once_together_or_one_after_the_other() -> None:
    for together in (True, False):
        it = Setting(slots=400)
        sequences = []
        for i in range(8):
            sequences.append(it.add([*COMMON, *(int(bit) for bit in f"{i:03b}")]))
            if not together:
                finish(it)
        finish(it)
        assert it.prefilled <= len(COMMON) + 3 + 7 * 3
        assert [s.usage.cached_tokens for s in sequences][0] == 0
        assert all(s.usage.cached_tokens >= len(COMMON) for s in sequences[1:])
        assert it.scheduler.cached_tokens == sum(s.usage.cached_tokens for s in sequences)


def test_who_waits_is_let_in_once_the_common_part_is_there() -> None:
    """Not later: what the other one prefills beyond it is of no use."""
    it = Setting(slots=400)
    it.add([*COMMON, *([1] * 100)])
    other = it.add([*COMMON, 0, 0])
    for _ in range(len(COMMON) // 16):
        assert other not in it.scheduler.running
        it.step()
        assert it.scheduler.held_up == 0, "not for want of room"
    it.step()
    assert (other in it.scheduler.running, other.usage.cached_tokens) == (True, len(COMMON))


def test_a_short_common_beginning_is_not_waited_for() -> None:
    it = Setting(slots=400)
    it.add([1] * (LEAST_SHARED - 1) + [0] * 100)
    other = it.add([1] * 100)
    it.step()
    assert other in it.scheduler.running


def test_who_waits_for_a_sequence_that_goes_away_goes_on_without_it() -> None:
    it = Setting(slots=400)
    first, other = it.add([*COMMON, 1]), it.add([*COMMON, 0])
    it.step()
    it.end(first)
    it.step()
    assert (other in it.scheduler.running, other.usage.cached_tokens) == (True, 16)
    finish(it)


class Counted(Sequence):
    begins = 0

    def begin(self) -> None:
        self.begins += 1
        super().begin()


def test_a_request_that_does_not_fit_is_matched_again_only_when_slots_were_given_back() -> None:
    it = Setting(slots=50)
    short, long = it.add([0] * 10, max_tokens=8), it.add([1] * 14, max_tokens=40)
    it.step()
    it.step()
    request = GenerateRequest("c", 1, (*[0] * 10, *[1] * 30), (), SamplingParams(), 0, 4, (), Speculation())
    waits = Counted(request, KvSequence(it.cache), None)
    it.sequences.append(waits)
    it.scheduler.add(waits)
    for _ in range(4):
        it.step()
    assert (short.output_len, long.output_len, waits.begins) == (6, 5, 1)
    it.end(short)
    it.step()
    assert waits.begins == 2
    it.end(long)
    it.step()
    assert waits.begins == 3
    assert waits in it.scheduler.running
    finish(it)


def test_another_key_neither_waits_nor_shares() -> None:
    it = Setting(slots=400)
    it.add(COMMON, key="")
    other = it.add(COMMON, key="one")
    it.step()
    assert other in it.scheduler.running
    finish(it)
    assert other.usage.cached_tokens == 0


def test_who_gave_way_computes_only_what_others_took() -> None:
    it = Setting(slots=100)
    it.add(COMMON[:40], max_tokens=40)
    victim = it.add([1] * 30, max_tokens=40)
    while not it.scheduler.preemptions:
        it.step()
    length, prefilled = len(victim.tokens), it.prefilled
    finish(it)
    assert it.prefilled - prefilled < length, "the prefix was still there when it came back"
    assert victim.usage.cached_tokens == 0, "it had computed its prompt itself"


def test_what_it_had_committed_itself_is_there_when_it_comes_back() -> None:
    it = Setting(slots=200)
    it.add([0] * 5, max_tokens=30)
    victim = it.add([1] * 5, max_tokens=30)
    for _ in range(10):
        it.step(tree=3)
    prefilled = it.prefilled
    it.scheduler._preempt(victim)
    finish(it)
    assert it.prefilled == prefilled, "only its root was left to run"


def test_admission_counts_what_is_shared_once() -> None:
    """Four prompts of 80 tokens would not fit side by side."""
    it = Setting(slots=128)
    sequences = [it.add([*COMMON, i % 2, i // 2]) for i in range(4)]
    while not sequences[0].output_len:
        it.step()
    it.step()
    assert len(it.scheduler.running) == 4
    assert it.scheduler.preemptions == 0
