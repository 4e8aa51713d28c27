"""Traces as clients get them: one JSON shape over HTTP, in files and, with the same names, over gRPC (docs/trace.md).

Promises: the texts of the tokens of one output, joined, are its text before stop strings and parsers, but for a character that its end
cuts off. Every field is there in every step.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from deployments.api.openai.logprobs import name_of
from deployments.gateway.detokenizer import Detokenizer, TokenBytes
from deployments.gateway.kept_traces import KeptTrace
from drafthouse.wire.step_trace import StepTrace, TracedNode, source_name


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenOfTrace(_Part):
    """A token that the step committed. `text`: the characters that it completes. `source`: what drafted it, or `target`."""

    token: int
    text: str
    source: str


class NodeOfTrace(_Part):
    """A drafted token. `parent`: a node before it, or -1, the last token before the step. `edge`: how probable it is below its parent, as
    its source says; `confidence`: that of its path, as the verifier trusts it. `chosen`: by the target after it, if it was verified."""

    token: int
    text: str
    parent: int
    edge: float
    confidence: float
    source: str
    verified: bool
    chosen: int | None


class StepTimings(_Part):
    wait_s: float  # from the end of the request's step before, or its arrival
    device_s: float  # the run, with all requests of the step
    step_s: float  # from the plan until the tokens were chosen


class TraceOfStep(_Part):
    """One verification step of one output."""

    step: int  # of this attempt, from 0
    attempt: int  # the verifier, counted from 1
    time: float  # Unix seconds, when the gateway heard of it
    base_len: int  # tokens of prompt and output before it
    first_token_index: int  # output tokens before it
    tokens: list[TokenOfTrace]
    nodes: list[NodeOfTrace]
    accepted: list[int]  # nodes, a path from the root: the first of the tokens
    nodes_left_out: int
    price: float  # what one more node cost, in tokens
    timings: StepTimings


class TraceOfChoice(_Part):
    """`finish_reason`: null while it goes on, and where it broke off."""

    index: int
    finish_reason: str | None
    steps: list[TraceOfStep]


class RequestTrace(_Part):
    """The latest steps of one request. `steps_left_out`: of all choices, before them."""

    id: str
    object: Literal["trace"]
    choices: list[TraceOfChoice]
    steps_left_out: int


MAX_ANSWER_NODES = 1 << 15
"""Of all steps in an answer that is sent whole: a quarter of a second of the event loop."""


class NodeBudget:
    """Nodes that the traces of one answer may still have. Beyond them a step has its accepted nodes alone."""

    def __init__(self, nodes: int = MAX_ANSWER_NODES) -> None:
        self._left = nodes

    def fit(self, steps: Iterable[StepTrace]) -> list[StepTrace]:
        fitting = list[StepTrace]()
        for step in steps:
            fitting.append(step if len(step.nodes) <= self._left else step.slim())
            self._left = max(0, self._left - len(fitting[-1].nodes))
        return fitting


class TraceForm:
    """Of one output's steps, in order."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes, self._detokenizer, self._next = token_bytes, Detokenizer(token_bytes), 0

    def steps(self, traces: Iterable[StepTrace]) -> list[TraceOfStep]:
        """The next ones."""
        return [self._step(trace) for trace in traces]

    def _step(self, trace: StepTrace) -> TraceOfStep:
        if trace.first_token_index != self._next:  # steps are missing
            self._detokenizer = Detokenizer(self._token_bytes)
        self._next = trace.first_token_index + len(trace.tokens)
        times = trace.times
        return TraceOfStep(
            step=trace.step, attempt=trace.attempt, time=trace.time, base_len=trace.base_len,
            first_token_index=trace.first_token_index, tokens=self._tokens(trace.tokens, trace.sources()),
            nodes=[self._node(node) for node in trace.nodes], accepted=list(trace.accepted), nodes_left_out=trace.left_out,
            price=_short(trace.price),
            timings=StepTimings(wait_s=_short(times.wait_s), device_s=_short(times.device_s), step_s=_short(times.step_s)),
        )  # fmt: skip

    def _tokens(self, tokens: Sequence[int], sources: Sequence[str]) -> list[TokenOfTrace]:
        return [
            TokenOfTrace(token=token, text=self._detokenizer.add((token,)), source=source)
            for token, source in zip(tokens, sources, strict=True)
        ]

    def _node(self, node: TracedNode) -> NodeOfTrace:
        return NodeOfTrace(
            token=node.token, text=name_of(node.token, self._token_bytes), parent=node.parent, edge=_short(node.edge),
            confidence=_short(node.confidence), source=source_name(node.source), verified=node.verified, chosen=node.chosen,
        )  # fmt: skip


def _short(value: float) -> float:
    """As many digits as a float32 has."""
    return float(f"{value:.6g}")


def request_trace(kept: KeptTrace, request_id: str) -> RequestTrace:
    """`request_id` as the client has it. Takes seconds where much is kept."""
    choices = []
    for index in range(kept.choices):
        mine = TraceForm(kept.token_bytes).steps([step for choice, step in kept.steps if choice == index])
        choices.append(TraceOfChoice(index=index, finish_reason=kept.ended.get(index), steps=mine))
    return RequestTrace(id=request_id, object="trace", choices=choices, steps_left_out=kept.left_out)
