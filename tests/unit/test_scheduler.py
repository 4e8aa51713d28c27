"""Who takes part in a step: budget, order, admission, and who gives way when KV slots run out."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.config.serving import VerifierConfig
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.policy.token_worth import weight
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from verifier.scheduler import Scheduler, StepPlan
from verifier.sequence import Sequence


class Setting:
    """A scheduler with a KV cache and no model: `run` does to the sequences what a step without drafts would."""

    def __init__(self, slots: int, max_sequences: int = 8, max_queue: int = 8, step_tokens: int = 16):
        self.cache = KvCache(1, 1, 1, slots, torch.int64, torch.device("cpu"))
        config = VerifierConfig(max_sequences=max_sequences, max_queue=max_queue, step_tokens=step_tokens)
        self.scheduler = Scheduler(config, self.cache.allocator)

    def add(
        self, name: str, prompt_tokens: int, max_tokens: int = 100, cache_key: str = "", had_turn: bool = False, priority: int = 0
    ) -> Sequence:
        request = GenerateRequest(
            name, 1, (0,) * prompt_tokens, (), SamplingParams(), 0, max_tokens, (), Speculation(), cache_key, had_turn=had_turn,
            priority=priority,
        )  # fmt: skip
        sequence = Sequence(request, KvSequence(self.cache), None)
        sequence.worth = weight(priority)
        self.scheduler.add(sequence)
        return sequence

    def run(self, plan: StepPlan) -> None:
        for sequence, count in [(s, 1) for s in plan.decoding] + plan.prefilling:
            sequence.kv.extend(count)
            if sequence.pending == 0:
                sequence.tokens.append(0)
                if sequence.output_len >= sequence.request.max_tokens:
                    self.scheduler.remove(sequence)

    def step(self) -> StepPlan:
        plan = self.scheduler.plan()
        self.run(plan)
        return plan


def names(plan: StepPlan) -> tuple[list[str], list[tuple[str, int]]]:
    return [s.id for s in plan.decoding], [(s.id, count) for s, count in plan.prefilling]


def test_prompts_are_cut_to_the_budget_oldest_first() -> None:
    it = Setting(slots=200)
    it.add("a", 20)
    it.add("b", 10)
    assert names(it.step()) == ([], [("a", 16)])
    assert names(it.step()) == ([], [("a", 4), ("b", 10)])
    assert names(it.step()) == (["a", "b"], [])


def test_decoding_comes_first_and_always_gets_its_token() -> None:
    it = Setting(slots=400, max_sequences=30, max_queue=30)
    for i in range(20):
        it.add(f"d{i}", 1)
    while any(s.output_len == 0 for s in it.scheduler.running) or it.scheduler.waiting:
        it.step()
    it.add("late", 10)
    plan = it.scheduler.plan()
    assert len(plan.decoding) == 20, "more than the budget of 16: all the same"
    assert names(plan)[1] == [("late", 2)], "an eighth of the budget all the same, or a crowd would keep the queue out"


def test_what_decoding_leaves_of_the_budget_goes_to_prompts() -> None:
    it = Setting(slots=200)
    for name in "abc":
        it.add(name, 2)
    it.step()
    it.add("d", 40)
    decoding, prefilling = names(it.step())
    assert decoding == ["a", "b", "c"]
    assert prefilling == [("d", 13)]


def test_trees_may_take_what_is_left_and_a_quarter_of_the_budget_beside_a_full_chunk() -> None:
    it = Setting(slots=200)
    for name in "abc":
        it.add(name, 2)
    it.step()
    assert it.scheduler.node_limit(it.scheduler.plan()) == 13
    it.add("d", 40)
    plan = it.scheduler.plan()
    assert (names(plan)[1], it.scheduler.node_limit(plan)) == ([("d", 13)], 4)


def test_trees_leave_a_chunk_its_slots() -> None:
    it = Setting(slots=22)
    it.add("a", 2)
    it.step()
    it.add("b", 16)
    plan = it.scheduler.plan()
    assert (names(plan)[1], it.scheduler.node_limit(plan)) == ([("b", 15)], 22 - 2 - 1 - 15)
    it.run(plan)
    assert it.scheduler.node_limit(it.scheduler.plan()) == 2, "of the four slots that are left two roots take theirs"


def test_prompts_are_cut_to_the_free_slots() -> None:
    """When d came, all of it fitted; while its chunks ran, the others went on growing."""
    it = Setting(slots=42)
    for name in "abc":
        it.add(name, 2)
    it.step()
    it.add("d", 32)
    assert [names(it.step())[1] for _ in range(3)] == [[("d", 13)], [("d", 13)], [("d", 1)]]
    assert it.cache.allocator.free_count == 0


def test_admission_is_in_order_and_waits_for_places_and_slots() -> None:
    it = Setting(slots=60, max_sequences=2)
    first = it.add("a", 20)
    it.add("b", 50)
    it.add("c", 5)
    it.scheduler.plan()
    assert [s.id for s in it.scheduler.running] == ["a"], "b does not fit beside a, and c does not overtake it"
    it.scheduler.remove(first)
    it.scheduler.plan()
    assert [s.id for s in it.scheduler.running] == ["b", "c"]
    it.add("d", 1)
    it.scheduler.plan()
    assert [s.id for s in it.scheduler.waiting] == ["d"], "two places only"


def test_admission_counts_what_the_running_still_prefill() -> None:
    """a has 40 slots to come: the allocator's free count alone would let b in, only to throw it out again."""
    it = Setting(slots=60)
    it.add("a", 40)
    it.step()
    it.add("b", 30)
    it.step()
    assert [s.id for s in it.scheduler.running] == ["a"]
    assert it.scheduler.preemptions == 0


def test_the_queue_is_bounded_and_free_places_count() -> None:
    it = Setting(slots=100, max_sequences=2, max_queue=1)
    for name in "abc":
        assert not it.scheduler.full
        it.add(name, 2)
    assert it.scheduler.full
    it.scheduler.plan()
    assert (len(it.scheduler.waiting), it.scheduler.full) == (1, True)
    it.scheduler.remove(next(iter(it.scheduler.waiting)))
    assert not it.scheduler.full


def test_who_is_held_up_waits_for_want_of_room() -> None:
    """Of places, or of KV slots. One that came since the last step is not held up yet."""
    it = Setting(slots=100, max_sequences=2)
    for name in "abc":
        it.add(name, 5)
    assert it.scheduler.held_up == 0
    it.step()
    assert (len(it.scheduler.running), it.scheduler.held_up) == (2, 1)
    it = Setting(slots=30, max_sequences=8)
    for name in "abc":
        it.add(name, 12)
    it.step()
    assert (len(it.scheduler.running), it.scheduler.held_up) == (2, 1)
    for sequence in list(it.scheduler.running):
        it.scheduler.remove(sequence)
    it.step()
    assert (len(it.scheduler.running), it.scheduler.held_up) == (1, 0)


def test_who_has_had_a_turn_elsewhere_goes_first() -> None:
    it = Setting(slots=400, max_sequences=1, max_queue=20)
    for name in ("runs", "waits"):
        it.add(name, 5)
    it.step()
    it.add("elsewhere", 5, had_turn=True)
    begun = []
    while it.scheduler.waiting:
        (running,) = it.scheduler.running
        it.scheduler.remove(running)
        it.step()
        begun += [sequence.id for sequence in it.scheduler.running]
    assert begun == ["elsewhere", "waits"]


def test_the_youngest_gives_way_keeps_its_tokens_and_comes_back_first() -> None:
    it = Setting(slots=24)
    for name in "abc":
        it.add(name, 5)
    while it.scheduler.preemptions == 0:
        it.step()
    assert [s.id for s in it.scheduler.running] == ["a", "b"]
    victim = next(iter(it.scheduler.waiting))
    assert victim.id == "c"
    assert victim.output_len > 0
    assert len(victim.kv) == 0
    it.add("d", 1)
    assert [s.id for s in it.scheduler.waiting] == ["c", "d"]
    it.scheduler.remove(next(iter(it.scheduler.running)))
    assert names(it.scheduler.plan())[1][0] == ("c", len(victim.tokens)), "all of its tokens are computed again"


def test_several_victims_come_back_in_their_old_order() -> None:
    it = Setting(slots=100)
    sequences = [it.add(name, 4) for name in "abcd"]
    it.step()
    for victim in sequences[:0:-1]:
        it.scheduler._preempt(victim)
    assert [s.id for s in it.scheduler.waiting] == ["b", "c", "d"]


def test_a_removed_sequence_frees_its_slots_wherever_it_is() -> None:
    it = Setting(slots=40, max_sequences=1)
    running, waiting = it.add("a", 10), it.add("b", 10)
    it.step()
    it.scheduler.remove(waiting)
    it.scheduler.remove(running)
    assert not it.scheduler.running
    assert not it.scheduler.waiting
    assert it.cache.allocator.free_count == 40
    assert it.scheduler.ended == 1, "the one that waited had no service"


shapes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), min_size=1, max_size=6)


@given(shapes, st.integers(40, 80), st.integers(1, 4), st.integers(16, 32))
def test_every_plan_fits_and_every_request_ends(shapes: list[tuple[int, int]], slots: int, places: int, budget: int) -> None:
    it = Setting(slots, max_sequences=places, step_tokens=budget)
    for i, (prompt, output) in enumerate(shapes):
        it.add(str(i), prompt, output)
    order: list[str] = []
    for _ in range(2000):
        plan = it.scheduler.plan()
        if not plan.decoding and not plan.prefilling:
            break
        tokens = len(plan.decoding) + plan.prompt_tokens
        assert tokens <= max(budget, len(plan.decoding) + budget // 8)
        assert tokens <= it.cache.allocator.free_count, "a plan that does not fit would fail its requests"
        assert 0 <= it.scheduler.node_limit(plan) <= it.cache.allocator.free_count - tokens, "nor may its trees"
        assert len(it.scheduler.running) <= places
        assert not {s.id for s in plan.decoding} & {s.id for s, _ in plan.prefilling}
        order += [s.id for s, _ in plan.prefilling if s.id not in order]
        it.run(plan)
    assert not it.scheduler.running, "a request never ended"
    assert not it.scheduler.waiting
    assert order == sorted(order, key=int), "requests start in the order in which they came"
    assert it.cache.allocator.free_count == slots


def test_half_of_the_prompt_tokens_go_to_those_that_are_worth_most_and_half_to_the_oldest() -> None:
    it = Setting(slots=400)
    it.add("old", 60)
    it.add("plain", 40)
    assert names(it.step())[1] == [("old", 16)], "by age where all are alike"
    it.add("urgent", 11, priority=-1)
    assert names(it.step())[1] == [("old", 8), ("urgent", 8)]
    assert names(it.step())[1] == [("old", 13), ("urgent", 3)], "what the urgent one leaves goes by age"
    it.add("late", 100, priority=-2)
    assert names(it.step()) == (["urgent"], [("old", 8), ("late", 7)])


def test_one_that_others_are_worth_more_than_is_served_all_the_same() -> None:
    """More urgent requests come all the time than there are places: the least urgent one begins after one of them, and gets through its
    prompt at no less than half of the budget."""
    it = Setting(slots=4000, max_sequences=2, max_queue=400, step_tokens=64)
    it.add("patient", 320, max_tokens=5, priority=2)
    steps = 0
    while any(s.id == "patient" for s in (*it.scheduler.running, *it.scheduler.waiting)):
        for i in range(4):
            it.add(f"urgent {steps} {i}", 64, max_tokens=2, priority=-2)
        it.step()
        steps += 1
    assert steps <= 3 + 320 // 30 + 5 + 2
