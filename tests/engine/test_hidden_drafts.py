"""Drafts that read the target's hidden states: which states reach them, and texts that do not depend on it."""

import asyncio
import logging
from dataclasses import replace

import pytest
import torch

from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.hidden_states import to_bytes
from drafthouse.engine.loader import LoadedModel
from drafthouse.errors import ConfigError
from drafthouse.sampling import SamplingParams
from drafthouse.wire.session_messages import Commit, Dropped, Grow, Scope
from tests.engine.hidden_drafts import SCALE, fuse, reader, runs_of
from tests.engine.oracle import greedy, sampled
from tests.engine.pairs import FAST, GREEDY, STEEP, loaded, noisy_copy, pair, prompts, request
from tests.engine.servers import collect, run, serve_drafter, start_verifier, until
from tests.engine.test_drafter_engine import opening
from tests.engine.tiny_models import tiny

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1)
NO_STATE = torch.full((64,), 2.0)
LONG = prompts(1, shortest=150, longest=150, seed=5)[0]


WEAK = 1e-6
"""So little of a state that the draft computes what it would without."""


def states_of_target(tokens: list[int]) -> torch.Tensor:
    """After the final norm, in bfloat16 as they travel, float32 `[tokens, 64]`."""
    with torch.inference_mode():
        states: torch.Tensor = tiny("llama").base_model(torch.tensor([tokens])).last_hidden_state[0]
    return states.bfloat16().float()


def told(draft: LoadedModel, text: list[int]) -> dict[int, int]:
    """How often a committed token of the text was run with the state that chose it, by position. Raises AssertionError where one was run
    with the state of another place."""
    states, counts = states_of_target(text), dict.fromkeys(range(len(text)), 0)
    for each in runs_of(draft):
        for token, position, state in zip(each.tokens, each.positions, each.states, strict=True) if not each.nodes else ():
            assert token == text[position]
            if not torch.allclose(state, NO_STATE):
                assert torch.allclose(state, states[position - 1], rtol=0.01, atol=1e-3), f"token {position}: the state of another place"
                counts[position] += 1
    return counts


def test_committed_tokens_are_run_with_the_states_that_chose_them() -> None:
    """Also those of a prompt that the target prefills in chunks: all of it here, of which the drafter has asked for."""
    target, draft = loaded(tiny("llama")), reader()
    both = pair(target, [draft], VerifierConfig(step_tokens=48))
    text = LONG + both.generate([request("a", LONG, 30)])["a"]
    assert text[150:] == greedy(tiny("llama"), LONG, 30)
    counts = told(draft, text)
    assert [counts[i] for i in range(1, 170)] == [1] * 169, "each once: a token of the prompt waits for its state"
    totals, [drafter] = both.verifier.totals, both.drafters.values()
    assert totals.accepted > 5
    assert totals.state_bytes == drafter.totals.state_bytes >= 170 * 64 * 2
    assert any(each.nodes for each in runs_of(draft))


def test_the_state_of_the_place_before_would_be_found() -> None:
    draft = reader()
    text = prompts(1)[0] + pair(loaded(tiny("llama")), [draft]).generate([request("a", prompts(1)[0], 12)])["a"]
    told(draft, text)
    for each in runs_of(draft):
        each.states = each.states.roll(1, 0)
    with pytest.raises(AssertionError, match="the state of another place"):
        told(draft, text)


def test_deeper_levels_are_run_with_the_drafts_own_states() -> None:
    """A draft that is the target gives the states that the target will."""
    draft = reader(noise=0.0)
    draft = replace(draft, state_inputs=fuse(64, SCALE * WEAK))
    engine = DrafterEngine(draft, FAST, DrafterConfig(), TreeConfig())
    text = prompts(1)[0]
    engine.handle("v", opening("s", text, vocab=256))
    while engine.has_work():
        engine.run_pass()
    tree, runs = engine.sessions["v", "s"].tree, [each for each in runs_of(draft) if each.nodes]
    found = 0
    for each in runs:
        for token, position, state in zip(each.tokens, each.positions, each.states / WEAK, strict=True):
            parents = [
                [*text, *tree.path(node)[:-1]]
                for node in range(len(tree))
                if tree.tokens[node] == token and tree.depths()[node] == position - len(text) + 1
            ]
            assert any(torch.allclose(state, states_of_target(path)[-1], rtol=0.02, atol=0.02) for path in parents), (token, position)
            found += 1
    assert found > 5


@pytest.mark.parametrize("prefix_cache", ["off", "on"])
def test_any_mix_of_requests_gives_each_its_own_text(prefix_cache: str) -> None:
    """Greedy and sampled, all modes, a long prompt in chunks, too few KV slots, a drafter that reads states and one that does not."""
    target = loaded(tiny("llama"), kv_tokens=300, prefix_cache=prefix_cache)
    drafts = [reader(0.01, kv_tokens=600, prefix_cache=prefix_cache), loaded(noisy_copy("llama", 0, 0.05))]
    texts = [*prompts(9), LONG, LONG]
    kinds = [(GREEDY, "auto"), (SAMPLED, "fixed"), (SAMPLED, "off"), (SamplingParams(1.3, top_k=9), "auto")]
    requests = [request(str(i), p, 40, kinds[i % 4][0], i, kinds[i % 4][1]) for i, p in enumerate(texts)]
    verifier = VerifierConfig(step_tokens=48, max_sequences=8)
    both = pair(target, drafts, verifier, DrafterConfig(prefill_tokens=16), TreeConfig(max_nodes=20), STEEP)
    got = both.generate(requests)
    oracle = tiny("llama")
    for r in requests:
        assert got[r.request_id] == sampled(oracle, r.prompt, r.sampling, r.seed, 40), f"request {r.request_id}"
    assert both.verifier.scheduler.preemptions > 0
    assert both.verifier.totals.state_bytes > 0
    for drafter in both.drafters.values():
        assert not drafter.sessions
        drafter.cache.allocator.check_integrity()
        assert drafter.cache.allocator.free_count == drafter.cache.allocator.count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_speculation(dtype: torch.dtype) -> None:
    """On the native decoder, which promises it: equal texts below float64, too, while states leave the device."""
    target = loaded(tiny("llama", dtype=dtype))
    assert target.row_invariant
    texts = [*prompts(3), LONG]
    found = []
    for mode in ("auto", "fixed", "off"):
        both = pair(target, [reader(0.02, dtype)], VerifierConfig(step_tokens=48))
        found.append(both.generate(request(str(i), p, 30, (GREEDY, SAMPLED)[i % 2], i, mode) for i, p in enumerate(texts)))
        assert (both.verifier.totals.state_bytes > 0) == (both.verifier.totals.accepted > 0) == (mode != "off")
    assert found[0] == found[1] == found[2]


def test_a_target_of_another_size_sends_none_and_the_draft_drafts_from_tokens(caplog: pytest.LogCaptureFixture) -> None:
    draft, target = reader(), loaded(tiny("llama", hidden_size=32, head_dim=16))
    with caplog.at_level(logging.WARNING):
        both = pair(target, [draft])
    assert [record.getMessage() for record in caplog.records] == [
        "drafter drafter-0 reads hidden states of 64 numbers, the target's have 32: it is sent none, and drafts from tokens"
    ]
    text = prompts(1)[0]
    assert both.generate([request("a", text, 20)])["a"] == greedy(tiny("llama", hidden_size=32, head_dim=16), text, 20)
    assert both.verifier.totals.state_bytes == 0
    runs = runs_of(draft)
    assert any(each.nodes for each in runs)
    assert all(torch.allclose(each.states, NO_STATE.expand_as(each.states)) for each in runs if not each.nodes)


def test_a_session_that_is_opened_in_mid_text_drafts_at_once_and_has_states_from_then_on() -> None:
    """As after the loss of a drafter: the verifier has kept no states."""
    lost, heir, text = reader(), reader(), list(prompts(1)[0])
    both = pair(loaded(tiny("llama")), [lost])
    both.verifier.submit(request("a", text, 60, mode="fixed", nodes=6, depth=3))
    while both.verifier.sequences:
        if len(text) > len(prompts(1)[0]) + 12 and "heir" not in both.drafters:
            both.verifier.lose_drafter("drafter-0")
            both.drafters["heir"] = engine = DrafterEngine(heir, FAST, DrafterConfig(), TreeConfig())
            both.verifier.draft_sessions.add_drafter("heir", engine.wish)
        for reply in both.turn():
            text += reply.tokens
    assert text == [*prompts(1)[0], *greedy(tiny("llama"), prompts(1)[0], 60)]
    counts = told(heir, text)
    first = min(position for position, count in counts.items() if count)
    assert first > len(prompts(1)[0]) + 12
    alone = [each for each in runs_of(heir) if not each.nodes and each.positions[0] == 0]
    assert alone, "it has caught up without states"
    last = max(position for position, count in counts.items() if count)
    assert all(counts[i] == 1 for i in range(first, last + 1)), counts


SIZE = 64


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (b"\0" * (2 * SIZE - 2), "commit.states: 126 bytes, not rows of 64 bfloat16 numbers"),
        (b"\0" * (2 * SIZE * 4), "commit.states: 4 states, and 4 tokens are committed, the first of which none chose"),
        (b"\xc0\x7f" * SIZE, "commit.states: numbers that are not finite"),
    ],
)
def test_states_that_cannot_be_right_end_their_session_alone(states: bytes, reason: str) -> None:
    engine = DrafterEngine(reader(), FAST, DrafterConfig(), TreeConfig())
    for name in "ab":
        engine.handle("v", opening(name, [1, 2, 3], vocab=256))
        engine.run_pass()
    assert engine.handle("v", Commit("a", 1, 3, (4,), 0.0, states)) == [("v", Dropped("a", 1, reason, Scope.MOMENT))]
    [(_, answer)] = engine.handle("v", Commit("b", 1, 3, (4,), 0.0, b"\0" * (2 * SIZE)))
    assert isinstance(answer, Grow)


def test_states_that_no_one_asked_for_end_their_session() -> None:
    engine = DrafterEngine(loaded(tiny("llama")), FAST, DrafterConfig(), TreeConfig())
    engine.handle("v", opening("a", [1, 2, 3], vocab=256))
    [(_, answer)] = engine.handle("v", Commit("a", 1, 3, (4,), 0.0, b"\0\0"))
    assert answer == Dropped("a", 1, "commit.states: this drafter has asked for none", Scope.MOMENT)


def test_before_the_first_commit_only_what_needs_no_states_is_run() -> None:
    draft = reader()
    engine = DrafterEngine(draft, FAST, DrafterConfig(prefill_tokens=16), TreeConfig())
    engine.handle("v", replace(opening("a", LONG, vocab=256), states_to_come=100))
    engine.handle("v", replace(opening("b", LONG[:20], vocab=256), states_to_come=19))
    while engine.has_work():
        engine.run_pass()
    assert [position for each in runs_of(draft) for position in each.positions] == list(range(50)), "no pass for one token alone"
    states = states_of_target([*LONG, 9])
    engine.handle("v", Commit("a", 1, 150, (9,), 0.0, to_bytes(states[50:150])))
    while engine.has_work():
        engine.run_pass()
    counts = told(draft, [*LONG, 9])
    assert [counts[i] for i in (49, 50, 51, 100, 150)] == [0, 0, 1, 1, 1]
    assert len(engine.sessions["v", "a"].tree)


def test_what_survives_a_commit_goes_out_at_once_and_is_run_again() -> None:
    draft = reader(0.0)
    engine = DrafterEngine(draft, FAST, DrafterConfig(), TreeConfig(max_nodes=40))
    text = prompts(1)[0]
    engine.handle("v", opening("s", text, vocab=256))
    while engine.has_work():
        engine.run_pass()
    session = engine.sessions["v", "s"]
    before = session.tree
    node = next(i for i in session.expanded if before.children(i) and before.parents[i] == -1)
    token, below = before.tokens[node], len(before.survivors([before.tokens[node]]))
    [(_, answer)] = engine.handle("v", Commit("s", 1, len(text), (token,), 0.0, to_bytes(states_of_target(text)[-1:])))
    assert isinstance(answer, Grow)
    assert (answer.first_node, len(answer.nodes) >= below > 0) == (0, True)
    assert (session.expanded, session.cached, len(session.kv)) == ([], len(text), len(text)), "none of the KV is kept"
    seen = len(runs_of(draft))
    while engine.has_work():
        engine.run_pass()
    first, *others = runs_of(draft)[seen:]
    assert (first.nodes, first.positions) == (False, [len(text)])
    assert torch.allclose(first.states[0], states_of_target(text)[-1], atol=1e-4)
    assert others
    assert all(each.nodes for each in others)


def test_an_inner_stage_is_refused() -> None:
    config = DrafterConfig.model_validate({"stages": [{"kind": "model", "inner": {"kind": "suffix"}}]})
    with pytest.raises(ConfigError, match="reads hidden states, so no inner stage can guess for it; leave out `inner`"):
        DrafterEngine(reader(), FAST, config, TreeConfig())


def test_over_grpc_one_of_two_drafters_dies() -> None:
    async def test() -> None:
        drafters = [await serve_drafter(reader(0.01), name) for name in ("first", "second")]
        verifier, stream = await start_verifier(VerifierConfig(step_tokens=48))
        verifier.set_drafters([route for _, route in drafters])
        await until(lambda: len(verifier.loop.engine.draft_sessions.drafters) == 2, "both drafters connected")
        texts = [*prompts(4), LONG]
        running = [
            asyncio.create_task(collect(stream, request(str(i), p, 100, mode="fixed", nodes=6, depth=3))) for i, p in enumerate(texts)
        ]
        first, second = (server for server, _ in drafters)
        await until(lambda: all(server.loop.engine.totals.state_bytes > 0 for server in (first, second)), "states at both")
        await first.stop()
        oracle = tiny("llama")
        for i, task in enumerate(running):
            assert await task == greedy(oracle, texts[i], 100)
        events = verifier.loop.engine.draft_sessions.events
        assert (events.lost > 0, events.malformed, second.malformed) == (True, 0, 0)
        await until(lambda: not second.loop.engine.sessions, "all sessions closed")
        await stream.close()
        await verifier.stop()
        await second.stop()

    run(test)
