"""Single fields of the data plane, with their limits. Promises: a function returns the field's value or raises WireError naming it."""

import re
from dataclasses import asdict

from drafthouse.errors import RequestError, WireError
from drafthouse.sampling import MAX_SEED, Grammar, SamplingParams, ThinkingBudget, Thought
from protos import dataplane_pb2 as pb

MAX_TOKENS = 1 << 22
"""No sequence on the wire is longer than this."""


MAX_SHOWN_CHARS = 200

MAX_WORTH = 1000.0
"""The most that a token may be worth, in tokens of a request without priority and objective."""


def identifier(value: str) -> str:
    if not value or len(value) > 256:
        raise WireError("a session or request id has 1 to 256 characters")
    return value


TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent_of(value: str) -> str:
    """Which span work belongs to, as W3C writes it. What is none counts as nothing: no request fails for it."""
    return value if TRACEPARENT.fullmatch(value) else ""


def trace_id_of(traceparent: str) -> str:
    """Of a checked one; empty where there is none."""
    return traceparent[3:35]


def shown(text: str) -> str:
    """A peer's words as they may stand in a log: one line, of a bounded length."""
    return ascii(text[:MAX_SHOWN_CHARS])[1:-1] + ("..." if len(text) > MAX_SHOWN_CHARS else "")


def cache_key(value: str) -> str:
    if len(value) > 256:
        raise WireError("a cache key has at most 256 characters")
    return value


def sampling_proto(sampling: SamplingParams) -> pb.Sampling:
    s = sampling
    return pb.Sampling(
        temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p, repetition_penalty=s.repetition_penalty,
        presence_penalty=s.presence_penalty, frequency_penalty=s.frequency_penalty, min_tokens=s.min_tokens,
        logit_bias=[pb.TokenBias(token=token, bias=bias) for token, bias in s.logit_bias], allowed_token_ids=s.allowed_token_ids,
        bad_words=[pb.TokenRun(tokens=word) for word in s.bad_words],
        thinking=pb.ThinkingBudget(**asdict(s.thinking)) if s.thinking is not None else None,
        grammar=grammar_proto(s.grammar) if s.grammar is not None else None,
    )  # fmt: skip


def sampling_of(m: pb.Sampling) -> SamplingParams:
    sampling = SamplingParams(
        m.temperature, m.top_k, m.top_p, m.min_p, m.repetition_penalty, m.presence_penalty, m.frequency_penalty, m.min_tokens,
        tuple((each.token, each.bias) for each in m.logit_bias), tuple(m.allowed_token_ids),
        tuple(tuple(word.tokens) for word in m.bad_words), thinking_of(m), grammar_of(m),
    )  # fmt: skip
    try:
        sampling.check()
    except RequestError as error:
        raise WireError(str(error)) from error
    return sampling


def thinking_of(m: pb.Sampling) -> ThinkingBudget | None:
    if not m.HasField("thinking"):
        return None
    return ThinkingBudget(m.thinking.tokens, m.thinking.opening, m.thinking.closing, m.thinking.inside)


def grammar_proto(grammar: Grammar) -> pb.Grammar:
    thought = pb.Thought(**asdict(grammar.thought)) if grammar.thought is not None else None
    return pb.Grammar(kind=grammar.kind, text=grammar.text, thought=thought)


def grammar_of(m: pb.Sampling) -> Grammar | None:
    if not m.HasField("grammar"):
        return None
    g = m.grammar
    thought = Thought(g.thought.opening, g.thought.closing, g.thought.inside) if g.HasField("thought") else None
    return Grammar(g.kind, g.text, thought)  # type: ignore[arg-type]  # checked with the rest


def seed_of(value: int) -> int:
    if value > MAX_SEED:
        raise WireError(f"seed {value} is above 2**63 - 1")
    return value


def min_confidence_of(value: float) -> float:
    if not 0.0 <= value < 1e9:
        raise WireError(f"min_confidence is {value}, not a number of tokens")
    return value


def worth_of(name: str, m: pb.Open | pb.Commit) -> float:
    if not m.HasField("worth"):
        return 1.0
    if not 0.0 < m.worth <= MAX_WORTH:
        raise WireError(f"{name} is {m.worth}, not above 0 and at most {MAX_WORTH}")
    return m.worth


def check_length(name: str, length: int) -> None:
    if length > MAX_TOKENS:
        raise WireError(f"{name} has {length} tokens, the limit is {MAX_TOKENS}")
