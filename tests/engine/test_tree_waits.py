"""Modes `fixed` and `table`: a sequence that waits for its tree waits alone, and no longer than its limit."""

import pytest

from drafthouse.config.serving import DrafterConfig, ServingConfig, TreeConfig
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from simulator.virtual_pair import ModelPair
from tests.engine.driven_verifier import Setting
from tests.engine.oracle import sampled
from tests.engine.pairs import GREEDY, loaded, noisy_copy, prompts, request
from tests.engine.scripted import CONTEXT, truth
from tests.engine.tiny_models import tiny
from verifier.tree_waits import FIXED_WAIT_S, TOGETHER_STEPS

PROMPT = (1, 2, 3, 4, 5)
LONGEST = CONTEXT - len(PROMPT)
TEXT = truth(PROMPT, GREEDY, 0, LONGEST)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)
STEP_S = 0.005
"""Of `Setting`."""


def fixed(name: str, n: int = LONGEST) -> GenerateRequest:
    return request(name, PROMPT, n, mode="fixed", nodes=3, depth=3)


def beside(mode: str) -> Setting:
    """`a` waits for a tree of 3 nodes; `b` is its neighbour. Both have their first tokens."""
    it = Setting()
    it.open(fixed("a"))
    if mode == "auto":
        it.engine.session_policy.gate.open = False  # so that it goes on without a session
    it.submit(request("b", PROMPT, LONGEST, mode=mode))
    assert who(it.step()) == ["a", "b"]
    return it


def who(replies: list[GenerateReply]) -> list[str]:
    return [reply.request_id for reply in replies]


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_neighbours_step_while_it_waits_and_its_tree_has_the_set_size(mode: str) -> None:
    it = beside(mode)
    for _ in range(4):
        for nodes in range(3):
            if nodes:
                length = len(it.outputs["a"])
                it.grow("a", TEXT[length : length + nodes])
            assert who(it.step()) == ["b"], "too few nodes"
        length = len(it.outputs["a"])
        it.grow("a", TEXT[length : length + 3])
        a, b = it.step()
        assert (len(a.tokens), a.usage.verified % 3) == (4, 0)
        assert b.tokens
    it.engine.lose_drafter("d")
    it.finish()
    assert (tuple(it.outputs["a"]), tuple(it.outputs["b"])) == (TEXT, TEXT)


def test_a_step_without_it_is_priced_without_it() -> None:
    it = beside("off")
    step = it.engine.begin_step()
    alone = Setting()
    alone.submit(request("b", PROMPT, LONGEST, mode="off"))
    alone.step()
    other = alone.engine.begin_step()
    assert step is not None
    assert other is not None
    assert step.plan.kv_tokens == other.plan.kv_tokens == len(PROMPT)  # type: ignore[union-attr]
    assert it.engine.pricing.plain_s == alone.engine.pricing.plain_s


def test_it_waits_for_each_tree_no_longer_than_its_limit() -> None:
    it = beside("off")
    for _ in range(2):
        began, rounds = it.now, 0
        while who(it.step()) == ["b"]:
            rounds += 1
            it.now += 0.02
        assert it.now - began == pytest.approx(FIXED_WAIT_S, abs=0.05)
        assert rounds >= 18
        assert it.engine.sequences["a"].verified == 0


def test_without_its_drafter_it_does_not_wait() -> None:
    it = beside("off")
    assert who(it.step()) == ["b"]
    it.engine.lose_drafter("d")
    for _ in range(3):
        assert who(it.step()) == ["a", "b"]


def test_a_step_with_a_prompt_or_a_first_token_takes_all_along() -> None:
    """It is a long one; who missed it would come through with nothing."""
    it = Setting()
    it.open(fixed("a"))
    it.step()
    assert it.wait()
    it.submit(request("b", PROMPT, 20, mode="off"))
    assert who(it.step()) == ["a", "b"]
    assert who(it.step()) == ["b"]


def test_with_no_one_else_the_device_waits_for_the_first_limit() -> None:
    it = Setting()
    it.open(fixed("a"))
    it.step()
    assert it.wait() == pytest.approx(it.now + FIXED_WAIT_S)
    it.now += 0.1
    it.submit(fixed("b"))
    assert who(it.step()) == ["a", "b"]
    it.engine.sequences["b"].tree_deadline = it.now + 0.1
    until = it.wait()
    assert until == it.now + 0.1
    it.now = until
    assert who(it.step()) == ["b"]
    assert it.wait() > it.now, "no busy loop"


def test_those_of_set_size_wait_for_each_other_while_nodes_are_due() -> None:
    """A crowd of them is one batch, as where nothing else is served."""
    it = Setting()
    it.open(fixed("a"))
    it.submit(fixed("b"))
    it.step()
    it.grow("a", TEXT[1:4])
    it.grow("b", TEXT[1:3], next_pass_eta_us=1000)
    assert it.now < it.wait() <= it.now + TOGETHER_STEPS * STEP_S
    it.grow("b", TEXT[1:4])
    assert who(it.step()) == ["a", "b"]


@pytest.mark.parametrize("next_pass_eta_us", [100, 400_000])
def test_they_wait_for_each_other_a_few_steps_at_most_and_not_for_what_is_overdue(next_pass_eta_us: int) -> None:
    it = Setting()
    it.open(fixed("a"))
    it.submit(fixed("b"))
    it.step()
    it.grow("a", TEXT[1:4])
    it.grow("b", TEXT[1:2], next_pass_eta_us=next_pass_eta_us)
    until = it.wait()
    assert it.now < until <= it.now + 1.1 * TOGETHER_STEPS * STEP_S
    it.now = until
    assert who(it.step()) == ["a"]


def test_a_neighbour_of_another_mode_ends_their_waiting_for_each_other() -> None:
    it = beside("off")
    it.submit(fixed("c"))
    assert who(it.step()) == ["a", "b", "c"]
    it.grow("a", TEXT[2:5])
    it.grow("c", TEXT[1:3], next_pass_eta_us=1000)
    assert who(it.step()) == ["a", "b"]


def test_a_suspect_of_a_failed_step_does_not_wait() -> None:
    """No other sequence runs before it has."""
    it = Setting(step_tokens=16)
    it.open(request("a", PROMPT, LONGEST, mode="fixed", nodes=3, depth=3, delivered=TEXT[:12]))
    it.submit(request("b", PROMPT, LONGEST, mode="off"))
    while len(it.outputs["b"]) < 3:
        it.step()
    it.broken = True
    with pytest.raises(RuntimeError):
        it.step()
    it.broken = False
    it.engine.recover("failed")
    replies = []
    while it.engine.scheduler.suspects:
        replies += it.step()  # which is no wait
    assert {"a", "b"} >= {*who(replies)} > set()


@pytest.mark.parametrize("mode", ["fixed", "table"])
def test_beside_a_slow_drafter_a_neighbour_is_as_fast_as_alone_and_texts_are_the_targets(mode: str) -> None:
    """In virtual time: passes of the draft take four steps of the target, and a tree takes several."""
    texts = prompts(3, shortest=8, longest=8)
    neighbour = request("off", texts[0], 60, SAMPLED, 0, "off")
    alone_s, alone = served([neighbour])
    together_s, together = served([neighbour, *(request(f"{mode}{i}", texts[i], 40, SAMPLED, i, mode) for i in (1, 2))])
    assert together["off"] == alone["off"] == sampled(tiny("llama"), texts[0], SAMPLED, 0, 60)
    for i in (1, 2):
        assert together[f"{mode}{i}"] == sampled(tiny("llama"), texts[i], SAMPLED, i, 40)
    assert together_s <= 1.1 * alone_s


def served(requests: list[GenerateRequest]) -> tuple[float, dict[str, list[int]]]:
    """When the request "off" ends, and the texts."""
    config = ServingConfig(tree=TreeConfig(), drafter=DrafterConfig())
    target, draft = loaded(tiny("llama")), loaded(noisy_copy("llama", 0, 0.02))
    both = ModelPair(target, draft, Curve("target", "", 15.0, 0.01, 0.0), Curve("draft", "", 60.0, 0.01, 0.0), config)
    both.settle()
    began, ended, outputs = both.world.now, 0.0, dict[str, list[int]]()
    for r in requests:
        both.verifier.submit(r)
    while both.verifier.sequences:
        for reply in both.turn():
            outputs.setdefault(reply.request_id, []).extend(reply.tokens)
            if reply.request_id == "off" and reply.finish_reason:
                ended = both.world.now - began
    return ended, outputs
