"""What the verifier's engine tells of its steps: all tokens of the text, what was on offer, and the counts that it has itself."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest

from drafthouse.sampling import Grammar, SamplingParams
from drafthouse.token_tree import TokenTree
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, from_reply_proto, to_reply_proto
from drafthouse.wire.session_messages import Grow
from drafthouse.wire.step_trace import MAX_NODES, TARGET, StepTrace
from simulator.one_process import OneProcess
from tests.engine.driven_verifier import Setting
from tests.engine.grammars import END
from tests.engine.pairs import GREEDY, loaded, noisy_copy, pair, prompts, request
from tests.engine.scripted import truth
from tests.engine.servers import run as serve
from tests.engine.servers import start_drafter, start_routed, until
from tests.engine.test_grammars import SCHEMAS
from tests.engine.test_grammars import models as grammar_models
from tests.engine.tiny_models import tiny
from tests.unit.openai_gateway import gateway
from verifier.step import Step
from verifier.step_tracing import NOTHING_DRAFTED, kept_nodes

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)
PROMPT = (1, 2, 3, 4, 5)


def traced(r: GenerateRequest) -> GenerateRequest:
    return replace(r, trace=True)


def run(both: OneProcess, *requests: GenerateRequest) -> dict[str, list[GenerateReply]]:
    """Replies by request, through the wire."""
    found: dict[str, list[GenerateReply]] = {r.request_id: [] for r in requests}
    for reply in both.replies(requests):
        found[reply.request_id].append(from_reply_proto(to_reply_proto(reply)))
    return found


def steps_of(replies: Sequence[GenerateReply]) -> list[StepTrace]:
    """Checks that the traces are those of the replies' own tokens."""
    traces = [reply.trace for reply in replies if reply.trace is not None]
    assert [(t.first_token_index, t.tokens) for t in traces] == [(r.first_token_index, r.tokens) for r in replies if r.tokens]
    assert [t.step for t in traces] == list(range(len(traces)))
    for t in traces:
        assert [t.nodes[node].token for node in t.accepted] == list(t.tokens[: len(t.accepted)])
        assert all(t.nodes[node].verified for node in t.accepted)
        for i, node in enumerate(t.accepted):
            assert t.nodes[node].chosen == (t.tokens[i + 1] if i + 1 < len(t.tokens) else t.nodes[node].chosen)
        assert all(node.parent < i and 0.0 <= node.edge <= 1.0 and node.confidence <= 1.0 for i, node in enumerate(t.nodes))
        paths = list[float]()
        for node in t.nodes:
            paths.append(node.edge * (1.0 if node.parent < 0 else paths[node.parent]))
            assert node.confidence <= paths[-1] * 1.001, "the confidence is another node's"
        assert min(t.times.wait_s, t.times.device_s, t.price) >= 0.0
        assert t.times.step_s >= t.times.device_s > 0.0
    return traces


def pair_of() -> OneProcess:
    return pair(loaded(tiny("llama")), [loaded(noisy_copy("llama", 0, 0.02))])


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_steps_add_up_to_the_text_and_to_the_counts(sampling: SamplingParams) -> None:
    both, texts = pair_of(), prompts(3)
    wanted = [traced(request(f"r{i}", text, 40, sampling, i)) for i, text in enumerate(texts)]
    found = run(both, *wanted)
    accepted, verified, steps = Counter[str](), Counter[str](), 0
    for r in wanted:
        traces = steps_of(found[r.request_id])
        steps += len(traces)
        assert [t.base_len for t in traces] == [len(r.prompt) + t.first_token_index for t in traces]
        usage = found[r.request_id][-1].usage
        assert usage.accepted == sum(len(t.accepted) for t in traces)
        assert usage.verified == sum(node.verified for t in traces for node in t.nodes)
        accepted.update(source for t in traces for source in t.sources() if source != TARGET)
        verified.update("model" for t in traces for node in t.nodes if node.verified)
    totals = both.verifier.meter.acceptance.totals()
    assert {f"accepted_source.{name}": float(count) for name, count in accepted.items()}.items() <= totals.items()
    assert sum(accepted.values()) == both.verifier.totals.accepted > 20
    assert sum(verified.values()) == both.verifier.totals.verified
    assert any(len(t.nodes) > sum(node.verified for node in t.nodes) for r in found.values() for t in steps_of(r)), "all was verified"


def test_a_text_is_the_same_with_a_trace_and_without_and_no_one_else_is_traced() -> None:
    [text] = prompts(1)
    plain, with_trace = (run(pair_of(), wanted)["a"] for wanted in (request("a", text, 30), traced(request("a", text, 30))))
    assert [token for r in plain for token in r.tokens] == [token for r in with_trace for token in r.tokens]
    found = run(pair_of(), request("a", text, 30), traced(request("b", text, 30)))
    assert not any(reply.trace for reply in [*plain, *found["a"]])
    assert steps_of(found["b"])


def test_without_drafts_each_token_is_the_targets() -> None:
    [text] = prompts(1)
    traces = steps_of(run(pair_of(), traced(request("a", text, 9, mode="off")))["a"])
    assert [t.sources() for t in traces] == [(TARGET,)] * 9
    assert not any(t.nodes for t in traces)


def test_a_request_that_goes_on_counts_its_steps_from_there() -> None:
    [text] = prompts(1)
    whole = pair_of().generate([request("a", text, 20)])["a"]
    r = replace(traced(request("a", text, 20, delivered=whole[:7])), attempt=2)
    traces = steps_of(run(pair_of(), r)["a"])
    assert [token for t in traces for token in t.tokens] == whole[7:]
    assert (traces[0].first_token_index, traces[0].base_len, traces[0].attempt) == (7, len(text) + 7, 2)


def test_a_prediction_has_a_source_of_its_own_and_a_stop_token_ends_the_trace() -> None:
    [text] = prompts(1)
    whole = pair_of().generate([request("a", text, 30)])["a"]
    end = next(i for i in range(10, 30) if whole[i] not in whole[:i])
    r = replace(traced(request("a", text, 30, stop_tokens=[whole[end]])), prediction=tuple(whole))
    both = pair(loaded(tiny("llama")), [])
    replies = run(both, r)["a"]
    traces = steps_of(replies)
    assert [token for t in traces for token in t.tokens] == whole[: end + 1]
    found = Counter(source for t in traces for source in t.sources())
    assert set(found) == {"prediction", TARGET}
    assert found["prediction"] == replies[-1].usage.predicted_accepted == both.verifier.totals.accepted > 5


def test_a_trace_has_the_tree_that_was_on_offer_and_not_what_came_during_the_run() -> None:
    it = Setting()
    it.open(traced(request("a", PROMPT, 20)))
    it.step()
    text = truth(PROMPT, GREEDY, 0, 8)
    wrong = (text[3] + 1) % 16
    it.grow("a", [text[1], text[2], wrong], next_pass_eta_us=0)
    step, session = it.engine.begin_step(), it.engine.sequences["a"].draft_session
    assert isinstance(step, Step)
    assert session is not None
    result = it.engine.runner.run(step.segments)
    it.engine.receive("d", Grow("a", session.epoch, 6, 3, TokenTree([text[3]], [1], [0.5], [0]), 0, 0.0))
    [reply] = it.engine.finish_step(step, result)
    trace = reply.trace
    assert trace is not None
    assert [node.token for node in trace.nodes] == [text[1], text[2], wrong]
    assert (trace.tokens, trace.sources()) == (text[1:4], ("model", "model", TARGET))
    assert [node.verified for node in trace.nodes] == [True, True, True]
    assert [node.confidence for node in trace.nodes] == pytest.approx([0.9, 0.81, 0.729])
    assert (trace.base_len, trace.first_token_index) == (6, 1)
    assert (trace.times.device_s, trace.times.step_s) == pytest.approx((0.005, 0.005))


def test_the_wait_is_the_time_since_the_step_before() -> None:
    it = Setting()
    it.now += 0.5  # before it comes
    it.submit(traced(request("a", PROMPT, 20, mode="off")))
    it.now += 0.25
    [first] = it.step()
    it.now += 0.125
    [second] = it.step()
    assert first.trace is not None
    assert second.trace is not None
    assert (first.trace.times.wait_s, second.trace.times.wait_s) == pytest.approx((0.25, 0.125))


def test_of_a_larger_tree_the_accepted_and_verified_nodes_are_told() -> None:
    n = MAX_NODES + 500
    chain = TokenTree([1] * n, list(range(-1, n - 1)), [1.0] * n, [0] * n)
    drafted = replace(NOTHING_DRAFTED, tree=chain, verified=range(MAX_NODES + 100))
    assert kept_nodes(drafted, []) == list(range(MAX_NODES))
    bush = TokenTree([1] * n, [-1] * n, [1.0] * n, [0] * n)
    late = replace(NOTHING_DRAFTED, tree=bush, verified=[n - 2, n - 1])
    assert kept_nodes(late, [n - 1]) == [*range(MAX_NODES - 2), n - 2, n - 1]


def test_a_sequence_keeps_no_trace() -> None:
    """However long it runs: a step's goes out with its tokens."""
    it = Setting()
    it.submit(traced(request("a", PROMPT, 20, mode="off")))
    it.step()
    s = it.engine.sequences["a"]
    assert vars(s.trace) == {"steps": 1, "last_end": pytest.approx(it.now)}
    assert it.finish()


def test_through_drafter_verifier_and_gateway_the_steps_are_those_of_the_answer() -> None:
    """Over real gRPC and HTTP, greedy and sampled, with a fixed tree so that there are drafts in each step."""

    async def test() -> None:
        drafter, route = await start_drafter(0.02, "drafter")
        verifier, address = await start_routed("verifier")
        verifier.set_drafters([route])
        await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
        async with gateway(context_tokens=256) as (app, service):
            service.link.update((address,))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                text, speculation = prompts(1)[0], {"mode": "fixed", "nodes": 8, "depth": 4, "trace": True}
                body = {"model": "demo", "prompt": text, "max_tokens": 40, "ignore_eos": True, "speculation": speculation}
                for sampling in ({"temperature": 0}, {"temperature": 0.8, "seed": 3, "n": 2}):
                    answer = (await client.post("/v1/completions", json=body | sampling)).json()
                    plain = (await client.post("/v1/completions", json=body | sampling | {"speculation": {"mode": "off"}})).json()
                    accepted = 0
                    for choice, without in zip(answer["choices"], plain["choices"], strict=True):
                        tokens = [token for step in choice["trace"] for token in step["tokens"]]
                        assert len(tokens) == 40
                        assert choice["text"].removesuffix("\ufffd") == "".join(token["text"] for token in tokens)
                        assert choice["text"] == without["text"]
                        accepted += sum(token["source"] == "model" for token in tokens)
                        assert {token["source"] for token in tokens} == {"model", "target"}
                    assert answer["usage"]["speculation"]["accepted"] == accepted > 0
        await verifier.stop()
        await drafter.stop()

    serve(test)


def test_what_a_grammar_forces_has_a_source_of_its_own() -> None:
    """Alone, where each forced node is accepted, and beside a drafter, whose nodes may be the same."""
    target, draft = grammar_models()
    sampling = SamplingParams(1.0, grammar=Grammar("json_schema", json.dumps(SCHEMAS[1])))
    r = traced(request("a", prompts(1)[0], 60, sampling, 4, stop_tokens=(END,)))
    texts = []
    for drafts in ([], [draft]):
        both = pair(target, drafts)
        traces = steps_of(run(both, r)["a"])
        texts.append([token for t in traces for token in t.tokens])
        found, totals = Counter(source for t in traces for source in t.sources()), both.verifier.meter.acceptance.totals()
        assert found["forced"] == totals["accepted_source.forced"] > 5
        assert found.total() - found[TARGET] == both.verifier.totals.accepted
        assert found["model"] == totals.get("accepted_source.model", 0)
    assert texts[0] == texts[1]
