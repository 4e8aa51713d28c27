"""What a trace is on the wire, in a client's JSON and among those that a gateway keeps, and what bounds each."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from deployments.api.trace_form import NodeBudget, TraceForm, request_trace
from deployments.gateway.kept_traces import KeptTraces
from deployments.gateway.text_stream import TextDelta
from deployments.gateway.verifier_stream import UNREAD_TRACES, Call
from drafthouse.config.serving import FIRST_OWN, SOURCE_KINDS
from drafthouse.wire.dialect import OURS
from drafthouse.wire.generation_messages import GenerateReply, from_reply_proto, from_request_proto, to_reply_proto, to_request_proto
from drafthouse.wire.step_trace import MAX_NODES, StepTrace, source_name
from protos import dataplane_pb2 as pb
from tests.unit.byte_tokenizer import codec
from tests.unit.linked import REQUEST
from tests.unit.tracing_double import WRONG, trace_of
from verifier import gateway_stream

TOKENS = (5, 6, 7)
TOKEN_BYTES = codec().token_bytes


def sent(trace: StepTrace | None = None, tokens: tuple[int, ...] = TOKENS) -> pb.GenerateReply:
    return to_reply_proto(GenerateReply("r", 1, 2, tokens, trace=trace or trace_of(tokens, 2, 9)))


def test_a_trace_is_the_same_behind_the_wire() -> None:
    reply = from_reply_proto(sent())
    assert reply.trace == trace_of(TOKENS, 2, 9)
    assert reply.trace.sources() == ("lookup", "model", "target")
    assert from_reply_proto(to_reply_proto(GenerateReply("r", 1, 0, TOKENS))).trace is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.parents.pop(),
        lambda t: t.edges.append(0.5),
        lambda t: t.chosen.pop(),
        lambda t: t.verified.__setitem__(0, 99),
        lambda t: t.parents.__setitem__(0, 0),
        lambda t: t.parents.__setitem__(2, -2),
        lambda t: t.accepted.append(99),
        lambda t: t.accepted.__setitem__(0, 1),
        lambda t: t.accepted.extend([2, 2]),
        lambda t: t.tokens.__setitem__(0, 8),
        lambda t: t.edges.__setitem__(0, float("nan")),
        lambda t: setattr(t, "price", float("inf")),
        lambda t: [t.MergeFrom(t) for _ in range(10)],
    ],
)
def test_what_is_no_trace_leaves_the_text_alone(spoil: Callable[[pb.StepTrace], object]) -> None:
    m = sent()
    spoil(m.trace)
    reply = from_reply_proto(m)
    assert reply.trace is None
    assert reply.tokens == TOKENS


def test_more_nodes_than_any_step_tells_of_are_no_trace() -> None:
    most = trace_of(tuple(range(MAX_NODES // 2 + 1)))
    assert len(most.nodes) == MAX_NODES
    assert from_reply_proto(sent(most, most.tokens)).trace is not None
    more = trace_of(tuple(range(MAX_NODES // 2 + 2)))
    assert from_reply_proto(sent(more, more.tokens)).trace is None


def test_a_request_says_that_it_wants_one() -> None:
    assert not from_request_proto(to_request_proto(REQUEST)).trace
    m = to_request_proto(REQUEST)
    m.trace = True
    assert from_request_proto(m).trace


@pytest.mark.parametrize(("count", "accepted"), [(3, (0, 2)), (2, (0, 2)), (1, (0,)), (9, (0, 2))])
def test_a_cut_trace_accepts_no_more_than_it_commits(count: int, accepted: tuple[int, ...]) -> None:
    cut = trace_of(TOKENS).cut(count)
    assert (cut.tokens, cut.accepted) == (TOKENS[:count], accepted)
    assert len(cut.sources()) == len(cut.tokens)


def test_sources_go_by_the_names_that_configurations_have() -> None:
    assert [source_name(number) for number in range(len(SOURCE_KINDS))] == list(SOURCE_KINDS)
    assert [source_name(FIRST_OWN - 1), source_name(FIRST_OWN), source_name(FIRST_OWN + 9)] == ["unknown", "own", "own"]


def test_texts_of_tokens_join_to_the_text_however_they_cut_characters() -> None:
    text = "é🙂 x"
    ids = tuple(codec().encode(text))
    form, pieces = TraceForm(TOKEN_BYTES), list[str]()
    for i in range(0, len(ids), 2):
        [step] = form.steps([trace_of(ids[i : i + 2], i)])
        pieces += [token.text for token in step.tokens]
    assert "".join(pieces) == text
    assert "" in pieces, "no token ends within a character: this shows nothing"
    assert form.steps([replace(trace_of((5,)), price=pb.StepTrace(price=0.1).price)])[0].price == 0.1
    [late] = form.steps([trace_of(tuple(codec().encode("ab")), len(ids) + 7)])
    assert "".join(token.text for token in late.tokens) == "ab"


def test_a_step_as_clients_get_it() -> None:
    [step] = TraceForm(TOKEN_BYTES).steps([trace_of(tuple(codec().encode("abc")), 4, 9, 2, 1)])
    a, b, _ = codec().encode("abc")
    assert step.model_dump() == {
        "step": 1, "attempt": 2, "time": 0.0, "base_len": 9, "first_token_index": 4,
        "tokens": [
            {"token": token, "text": text, "source": source}
            for token, text, source in zip(codec().encode("abc"), "abc", ("lookup", "model", "target"), strict=True)
        ],
        "nodes": [
            {"token": a, "text": "a", "parent": -1, "edge": 0.5, "confidence": 0.5, "source": "lookup", "verified": True, "chosen": b},
            {"token": WRONG, "text": codec().token_strings([WRONG])[0], "parent": -1, "edge": 0.25, "confidence": 0.25, "source": "model",
             "verified": False, "chosen": None},
        ] + step.model_dump()["nodes"][2:],
        "accepted": [0, 2], "nodes_left_out": 3, "price": 0.125,
        "timings": {"wait_s": 0.5, "device_s": 0.25, "step_s": 0.375},
    }  # fmt: skip


def test_a_slim_trace_has_the_accepted_nodes_and_the_same_sources() -> None:
    whole = trace_of((5, 6, 7, 8))
    slim = whole.slim()
    assert [(node.token, node.parent, node.chosen) for node in slim.nodes] == [(5, -1, 6), (6, 0, 7), (7, 1, 8)]
    assert (slim.tokens, slim.accepted, slim.sources()) == (whole.tokens, (0, 1, 2), whole.sources())
    assert slim.left_out == whole.left_out + len(whole.nodes) - 3
    assert from_reply_proto(sent(slim, slim.tokens)).trace == replace(slim, first_token_index=2)


def test_a_whole_answer_has_only_so_many_nodes() -> None:
    budget, step = NodeBudget(9), trace_of(TOKENS)
    assert budget.fit([step, step]) == [step, step]
    assert budget.fit([step]) == [step.slim()]
    assert budget.fit([step]) == [step.slim()]


def test_steps_that_wait_for_a_slow_client_have_their_accepted_nodes_alone() -> None:
    async def run() -> list[GenerateReply]:
        call = Call(("r", 1))
        for i in range(UNREAD_TRACES + 2):
            call.put(from_reply_proto(sent(trace_of(TOKENS, 3 * i))), 0.0)
        return await call.read()

    traces = [reply.trace for reply in asyncio.run(run())]
    assert [len(trace.nodes) for trace in traces] == [4] * UNREAD_TRACES + [2] * 2
    assert {trace.sources() for trace in traces} == {trace_of(TOKENS).sources()}


def test_what_a_gateway_does_not_read_is_slim_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_stream, "OUTBOX_TRACES", 2)
    stream = gateway_stream.GatewayStream("g", OURS, False, lambda: None)
    for _ in range(4):
        stream.say(GenerateReply("r", 1, 0, TOKENS, trace=trace_of(TOKENS)))
    assert [len(reply.trace.tokens) for reply in stream.take().replies] == [4, 4, 2, 2]


def delta(index: int, reason: str = "") -> TextDelta:
    """With one step of three tokens, that is, four nodes."""
    return TextDelta("", TOKENS, index, 1, reason, trace=(trace_of(TOKENS, index),))


def firsts(kept: KeptTraces, name: str) -> list[int] | None:
    """Where the steps begin that are kept."""
    found = kept.find(name, "key")
    return None if found is None else [step.first_token_index for _, step in found.steps]


def test_a_gateway_keeps_the_last_requests() -> None:
    kept = KeptTraces(max_requests=2)
    first, *_ = [kept.begin(f"cmpl-{name}", "key", 1, TOKEN_BYTES) for name in "abc"]
    kept.add(first, 0, delta(0))
    assert firsts(kept, "cmpl-a") is None
    assert firsts(kept, "cmpl-b") == firsts(kept, "cmpl-c") == []


def test_of_a_long_request_it_keeps_the_last_steps() -> None:
    kept = KeptTraces(max_steps=3)
    it = kept.begin("cmpl-a", "key", 1, TOKEN_BYTES)
    for i in range(5):
        kept.add(it, 0, delta(3 * i, "length" if i == 4 else ""))
    assert firsts(kept, "cmpl-a") == [6, 9, 12]
    assert it.nodes == 12
    before = it.snapshot()
    kept.add(it, 0, delta(15))
    told = request_trace(before, "a")
    assert [step.first_token_index for step in told.choices[0].steps] == [6, 9, 12]
    assert (told.steps_left_out, told.choices[0].finish_reason) == (2, "length")


def test_nodes_are_bounded_over_all_requests_and_older_ones_go_first() -> None:
    kept = KeptTraces(max_nodes=12)
    a, b, c = [kept.begin(f"cmpl-{name}", "key", 1, TOKEN_BYTES) for name in "abc"]
    for it in (a, b, c):
        kept.add(it, 0, delta(0))
    assert [firsts(kept, f"cmpl-{name}") for name in "abc"] == [[0], [0], [0]]
    kept.add(b, 0, delta(3))
    assert [firsts(kept, f"cmpl-{name}") for name in "abc"] == [None, [0, 3], [0]]
    for i in (3, 6, 9):
        kept.add(c, 0, delta(i))
    assert [firsts(kept, f"cmpl-{name}") for name in "abc"] == [None, None, [3, 6, 9]]


def test_only_its_own_client_is_shown_a_trace() -> None:
    kept = KeptTraces()
    kept.begin("resp-a", "key", 1, TOKEN_BYTES)
    assert kept.find("resp-a", "other") is kept.find("resp-a", "") is None
    assert kept.find("resp-a", "key") is kept.find("resp_a", "key") is not None
