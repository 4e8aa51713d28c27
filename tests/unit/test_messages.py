"""Messages survive the wire, and what is malformed is refused by name."""

import contextlib
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from drafthouse.errors import WireError
from drafthouse.objective import FIRST_PRIORITY, LAST_PRIORITY, Objective, objective_of
from drafthouse.sampling import MAX_SEED, SamplingParams, ThinkingBudget
from drafthouse.speculation import SPECULATION_MODES, Speculation
from drafthouse.token_logprobs import MAX_TOP_LOGPROBS, MODES, LogprobsWish, TokenLogprob
from drafthouse.token_tree import TokenTree
from drafthouse.wire import fields as w
from drafthouse.wire import generation_messages as g
from drafthouse.wire import session_messages as s
from drafthouse.wire.states import MAX_STATES_BYTES
from protos import dataplane_pb2 as pb

UINT32 = st.integers(0, (1 << 32) - 1)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TOKENS = st.lists(UINT32, min_size=1, max_size=6).map(tuple)
FLOATS = st.floats(max_value=0, width=32, allow_nan=False)
TOP = st.one_of(st.none(), st.integers(0, MAX_TOP_LOGPROBS))
WORTHS = st.just(1.0) | st.floats(0.0, w.MAX_WORTH, width=32, exclude_min=True)
OBJECTIVES = st.builds(objective_of, st.sampled_from([0.0, 0.5, 250.0]), st.sampled_from([0.0, 12.5, 40.0]))
CONFIDENCES = st.floats(0, 1e8, width=32)  # float32 on the wire, like edges
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, (1 << 31) - 1),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.01, 100),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    min_tokens=st.integers(0, (1 << 31) - 1),
    logit_bias=st.dictionaries(UINT32, st.floats(-100, 100), max_size=3).map(lambda bias: tuple(bias.items())),
    allowed_token_ids=st.lists(UINT32, max_size=3).map(tuple),
    bad_words=st.lists(TOKENS, max_size=2).map(tuple),
    thinking=st.none() | st.builds(ThinkingBudget, tokens=UINT32, opening=UINT32, closing=UINT32, inside=st.booleans()),
).filter(lambda sampling: sampling.thinking is None or not sampling.allowed_token_ids)
OPENS = st.builds(
    s.Open, session_id=IDS, epoch=UINT32, tokens=TOKENS, sampling=SAMPLINGS, seed=st.integers(0, MAX_SEED), noise_version=UINT32,
    target_fingerprint=TEXT, max_nodes=UINT32, max_depth=UINT32, min_confidence=CONFIDENCES, vocab_size=st.sampled_from([0, (1 << 32) - 1]),
    width=st.integers(0, s.MAX_WIDTH), vocabulary=TEXT, prompt_len=UINT32, stop_tokens=TOKENS, states_to_come=st.integers(0, 5),
    worth=WORTHS,
).filter(lambda o: (o.vocab_size == 0 or max(o.tokens) < o.vocab_size) and o.states_to_come < len(o.tokens))  # fmt: skip
COMMITS = st.builds(
    s.Commit,
    session_id=IDS,
    epoch=UINT32,
    base_len=st.integers(0, w.MAX_TOKENS - 6),
    tokens=TOKENS,
    min_confidence=CONFIDENCES,
    states=st.lists(st.binary(min_size=2, max_size=2), max_size=8).map(b"".join),
    worth=WORTHS,
)
NODES = st.lists(st.tuples(UINT32, st.integers(-(1 << 31), (1 << 31) - 1), st.floats(width=32, allow_nan=False), UINT32), max_size=6)
GROWS = st.builds(
    s.Grow, session_id=IDS, epoch=UINT32, base_len=UINT32, first_node=UINT32,
    nodes=NODES.map(lambda nodes: TokenTree(*(list(column) for column in zip(*nodes, strict=True))) if nodes else TokenTree()),
    next_pass_eta_us=UINT32, next_pass_expected_tokens=st.floats(0, 999_999, width=32),
)  # fmt: skip
TO_DRAFTER = st.one_of(OPENS, COMMITS, st.builds(s.Close, IDS, UINT32, st.booleans()), st.builds(s.Hold, IDS, UINT32))
SCOPES = st.sampled_from(s.Scope)
TO_VERIFIER = st.one_of(
    st.builds(s.Opened, IDS, UINT32),
    st.builds(s.Refused, IDS, UINT32, TEXT, SCOPES),
    GROWS,
    st.builds(s.Dropped, IDS, UINT32, TEXT, SCOPES),
)
SPECULATIONS = st.builds(Speculation, st.sampled_from(SPECULATION_MODES), st.integers(1, 1024), st.integers(1, 256), st.integers(0, 64))
REQUESTS = st.builds(
    g.GenerateRequest, request_id=IDS, attempt=UINT32, prompt=TOKENS, delivered=st.lists(UINT32, max_size=4).map(tuple), sampling=SAMPLINGS,
    seed=st.integers(0, MAX_SEED), max_tokens=st.integers(5, (1 << 32) - 1), stop_tokens=TOKENS, speculation=SPECULATIONS,
    resumed=st.booleans(), had_turn=st.booleans(),
    logprobs=st.builds(LogprobsWish, TOP, TOP, st.sampled_from(MODES)),
    priority=st.integers(FIRST_PRIORITY, LAST_PRIORITY), objective=OBJECTIVES, waited_s=st.floats(0, 1e6), since_first_s=st.floats(0, 1e6),
).map(lambda r: replace(r, scored=len(r.prompt) - r.attempt % 2 if not r.delivered else len(r.prompt)))  # fmt: skip
USAGES = st.builds(g.SpeculationUsage, UINT32, UINT32, UINT32, UINT32, st.booleans(), UINT32)
LOGPROBS = st.integers(0, 3).flatmap(
    lambda top: st.lists(
        st.builds(
            TokenLogprob, FLOATS, UINT32, st.lists(UINT32, min_size=top, max_size=top).map(tuple),
            st.lists(FLOATS, min_size=top, max_size=top).map(tuple),
        ),
        max_size=3,
    )
).map(tuple)  # fmt: skip
FINISH_REASONS = ("stop", "length", "error", "moved", "returned")
REPLIES = st.one_of(
    st.builds(g.GenerateReply, IDS, UINT32, UINT32, TOKENS),
    st.builds(g.GenerateReply, IDS, UINT32, UINT32, TOKENS, logprobs=LOGPROBS, first_prompt_index=UINT32, prompt_logprobs=LOGPROBS),
    st.builds(g.GenerateReply, IDS, UINT32, UINT32, TOKENS, st.sampled_from(FINISH_REASONS), TEXT, USAGES),
)
REFUSALS = st.builds(g.Refusal, IDS, UINT32, st.sampled_from(g.RefusalKind), TEXT, st.floats(0, 1e6))

FORMS: dict[type[Message], Callable[[Message], object]] = {
    pb.DrafterMessage: s.from_drafter_proto,
    pb.VerifierMessage: s.from_verifier_proto,
    pb.GenerateRequest: g.from_request_proto,
    pb.GenerateReply: g.from_reply_proto,
    pb.Refusal: g.from_refusal_proto,
}


def over_the_wire(message: Message) -> object:
    form = type(message)
    return FORMS[form](form.FromString(message.SerializeToString()))


@given(TO_DRAFTER)
def test_round_trip_to_drafter(message: s.ToDrafterMessage) -> None:
    assert over_the_wire(s.to_drafter_proto(message)) == message
    assert s.session_of(s.to_drafter_proto(message)) == (message.session_id, message.epoch)


@given(TO_VERIFIER)
def test_round_trip_to_verifier(message: s.ToVerifierMessage) -> None:
    assert over_the_wire(s.to_verifier_proto(message)) == message
    assert s.session_of(s.to_verifier_proto(message)) == (message.session_id, message.epoch)


@given(REQUESTS)
def test_round_trip_request(message: g.GenerateRequest) -> None:
    assert over_the_wire(g.to_request_proto(message)) == message


@given(REPLIES)
def test_round_trip_reply(message: g.GenerateReply) -> None:
    assert over_the_wire(g.to_reply_proto(message)) == message


@given(REFUSALS)
def test_round_trip_refusal(message: g.Refusal) -> None:
    assert over_the_wire(g.to_refusal_proto(message)) == message


def test_a_refusal_of_a_kind_that_is_not_known_sends_the_request_elsewhere() -> None:
    assert g.from_refusal_proto(pb.Refusal(request_id="r", kind=7)).kind is g.RefusalKind.NOT_TAKEN


@given(st.floats(0, 1))
def test_edges_and_prices_arrive_as_float32(value: float) -> None:
    nearest = struct.unpack("f", struct.pack("f", value))[0]
    grow = over_the_wire(s.to_verifier_proto(s.Grow("s", 1, 1, 0, TokenTree([1], [-1], [value], [0]), 0, 0.0)))
    assert isinstance(grow, s.Grow)
    assert grow.nodes.edges == [nearest]
    grow.nodes.check(2, 1)  # rounding does not lead out of 0 to 1
    assert over_the_wire(s.to_drafter_proto(s.Commit("s", 1, 1, (1,), value))) == s.Commit("s", 1, 1, (1,), nearest)


def test_session_of_nothing() -> None:
    assert s.session_of(pb.DrafterMessage()) is None
    assert s.session_of(pb.VerifierMessage(grow=pb.Grow(epoch=3))) is None


OPEN = s.Open("s", 1, (1, 2), SamplingParams(), 0, 1, "f", 8, 4, 0.0, 10)
COMMIT = s.Commit("s", 1, 2, (3,), 0.5)
GROW = s.Grow("s", 1, 2, 0, TokenTree([1, 2], [-1, 0], [0.5, 0.5], [0, 0]), 0, 0.0)
REQUEST = g.GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, 4, (), Speculation())
NAN = float("nan")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (replace(OPEN, session_id=""), "session"),
        (replace(OPEN, session_id="s" * 257), "session"),
        (replace(OPEN, tokens=()), r"open\.tokens is empty"),
        (replace(OPEN, tokens=(1, 10)), r"open\.tokens holds 10"),
        (replace(OPEN, tokens=(0,) * (w.MAX_TOKENS + 1)), r"open\.tokens has"),
        (replace(OPEN, sampling=SamplingParams(temperature=-1.0)), "temperature"),
        (replace(OPEN, sampling=SamplingParams(top_k=1 << 31)), "top_k"),
        (replace(OPEN, sampling=SamplingParams(top_p=-0.1)), "top_p"),
        (replace(OPEN, sampling=SamplingParams(presence_penalty=2.5)), "presence_penalty"),
        (replace(OPEN, sampling=SamplingParams(frequency_penalty=NAN)), "frequency_penalty"),
        (replace(OPEN, sampling=SamplingParams(logit_bias=((3, 101.0),))), "logit_bias"),
        (replace(OPEN, sampling=SamplingParams(logit_bias=((3, 1.0), (3, 2.0)))), "logit_bias"),
        (replace(OPEN, sampling=SamplingParams(bad_words=((),))), "bad word"),
        (replace(OPEN, sampling=SamplingParams(min_p=NAN)), "min_p"),
        (replace(OPEN, sampling=SamplingParams(repetition_penalty=0.0)), "repetition_penalty"),
        (replace(OPEN, seed=MAX_SEED + 1), "seed"),
        (replace(OPEN, min_confidence=NAN), "min_confidence"),
        (replace(OPEN, min_confidence=-1.0), "min_confidence"),
        (s.Close("", 1), "session"),
        (s.Hold("", 1), "session"),
        (replace(COMMIT, session_id=""), "session"),
        (replace(COMMIT, tokens=()), r"commit\.tokens is empty"),
        (replace(COMMIT, base_len=w.MAX_TOKENS), r"commit\.tokens has"),
        (replace(COMMIT, min_confidence=float("inf")), "min_confidence"),
        (replace(COMMIT, states=b"abc"), r"commit\.states has 3 bytes; it must be bfloat16 numbers"),
        (replace(COMMIT, states=bytes(MAX_STATES_BYTES + 2)), r"commit\.states has"),
        (replace(OPEN, states_to_come=2), r"open\.states_to_come is 2, of 2 tokens"),
        (replace(OPEN, worth=0.0), r"open\.worth is 0\.0"),
        (replace(COMMIT, worth=NAN), r"commit\.worth"),
        (replace(COMMIT, worth=2000.0), r"commit\.worth is 2000\.0"),
    ],
)
def test_refuses_to_drafter(message: s.ToDrafterMessage, field: str) -> None:
    with pytest.raises(WireError, match=field):
        over_the_wire(s.to_drafter_proto(message))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (replace(GROW, session_id=""), "session"),
        (replace(GROW, nodes=TokenTree([1, 2], [-1], [0.5, 0.5], [0, 0])), "grow: tokens, parents, edges and sources"),
        (replace(GROW, nodes=TokenTree([1], [-1], [0.5], [])), "grow: tokens, parents, edges and sources"),
        (replace(GROW, next_pass_expected_tokens=NAN), r"grow\.next_pass_expected_tokens"),
        (replace(GROW, next_pass_expected_tokens=-1.0), r"grow\.next_pass_expected_tokens"),
        (s.Opened("", 1), "session"),
        (s.Refused("", 1, "full"), "session"),
        (s.Dropped("", 1, "gone"), "session"),
    ],
)
def test_refuses_to_verifier(message: s.ToVerifierMessage, field: str) -> None:
    with pytest.raises(WireError, match=field):
        over_the_wire(s.to_verifier_proto(message))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (replace(REQUEST, request_id=""), "request id"),
        (replace(REQUEST, prompt=()), "prompt is empty"),
        (replace(REQUEST, prompt=(0,) * w.MAX_TOKENS, delivered=(0,)), "prompt has"),
        (replace(REQUEST, delivered=(1, 2, 3, 4)), "max_tokens"),
        (replace(REQUEST, max_tokens=0), "max_tokens"),
        (replace(REQUEST, sampling=SamplingParams(temperature=NAN)), "temperature"),
        (replace(REQUEST, seed=MAX_SEED + 1), "seed"),
        (replace(REQUEST, speculation=Speculation("maybe")), r"speculation\.mode"),
        (replace(REQUEST, speculation=Speculation(nodes=0)), r"speculation\.nodes"),
        (replace(REQUEST, speculation=Speculation(depth=257)), r"speculation\.depth"),
        (replace(REQUEST, speculation=Speculation(width=65)), r"speculation\.width"),
        (replace(REQUEST, priority=-3), "priority must be between -2 and 2"),
        (replace(REQUEST, objective=Objective(-1.0)), r"objective\.first_token_ms is -1000"),
        (replace(REQUEST, objective=Objective(per_token_s=NAN)), r"objective\.per_token_ms"),
        (replace(REQUEST, objective=Objective(1.0), waited_s=-1.0), r"objective\.waited_s"),
    ],
)
def test_refuses_requests(message: g.GenerateRequest, field: str) -> None:
    with pytest.raises(WireError, match=field):
        over_the_wire(g.to_request_proto(message))


@pytest.mark.parametrize("form", [pb.DrafterMessage, pb.VerifierMessage])
def test_refuses_a_message_without_a_kind(form: type[Message]) -> None:
    with pytest.raises(WireError, match="without a kind"):
        over_the_wire(form())


SERIALISED = st.one_of(
    TO_DRAFTER.map(s.to_drafter_proto),
    TO_VERIFIER.map(s.to_verifier_proto),
    REQUESTS.map(g.to_request_proto),
    REPLIES.map(g.to_reply_proto),
    REFUSALS.map(g.to_refusal_proto),
).map(lambda message: message.SerializeToString())


def parse_all(data: bytes) -> None:
    for form, convert in FORMS.items():
        try:
            message = form.FromString(data)
        except DecodeError:
            continue
        if isinstance(message, (pb.DrafterMessage, pb.VerifierMessage)):
            s.session_of(message)
        with contextlib.suppress(WireError):
            convert(message)


@given(st.binary(max_size=200))
def test_random_bytes_raise_wire_errors_only(data: bytes) -> None:
    parse_all(data)


@settings(max_examples=200)
@given(SERIALISED, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.integers(0, 10_000))
def test_damaged_messages_raise_wire_errors_only(data: bytes, flips: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data[: cut % (2 * len(data)) or None])
    for position, value in flips:
        if damaged:
            damaged[position % len(damaged)] = value
    parse_all(bytes(damaged))


def test_what_is_worth_as_much_as_others_takes_no_bytes() -> None:
    assert not s.to_drafter_proto(COMMIT).commit.HasField("worth")
    assert not g.to_request_proto(REQUEST).HasField("objective")
    assert g.to_request_proto(replace(REQUEST, priority=1)).ByteSize() > g.to_request_proto(REQUEST).ByteSize()
