"""What one verification step did for one request: made by its verifier, told to its client (docs/trace.md).

Promises: a node comes after its parent, and `accepted` is a path from the root whose tokens are the first of `tokens`. What breaks
this form on the wire is no trace at all: the text goes on without it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from drafthouse.config.serving import FIRST_OWN, OWN, SOURCE_KINDS
from drafthouse.token_tree import ROOT
from protos import dataplane_pb2 as pb

MAX_NODES = 1024
"""Of one step. Where more were on offer, `left_out` counts those that the trace lacks: none that was verified, unless these are more."""

TARGET = "target"
"""The source of a token that the target chose and no draft foresaw."""

UNKNOWN = "unknown"
"""A source of a later version."""

NO_CHOICE = -1
"""On the wire: nothing was chosen after this node."""


@dataclass(frozen=True, slots=True)
class TracedNode:
    """`parent`: ROOT is the last token before the step. `edge`: how probable it is once its parent is accepted, as whatever drafted it
    says; `confidence`: that of the whole path, as the verifier trusts it, 0 for a node that lies too deep. `chosen`: what the target
    chose after it, where it was verified and anything may be chosen there."""

    token: int
    parent: int
    edge: float
    confidence: float
    source: int
    verified: bool = False
    chosen: int | None = None


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds. `wait_s`: from the end of this request's step before, or from its arrival, until this step was planned. `device_s`: the
    run on the device, with all other requests of the step. `step_s`: from the plan until the tokens were chosen."""

    wait_s: float
    device_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class StepTrace:
    """`step` counts the steps of this attempt that gave it tokens, from 0. `base_len`: tokens of prompt and output before the step;
    `first_token_index`: output tokens before it. `tokens` are those that it committed, the first of them the nodes `accepted`. `price`:
    what one more node cost, in tokens. `time` (Unix seconds) is when the gateway heard of it; 0 before."""

    step: int
    attempt: int
    base_len: int
    first_token_index: int
    tokens: tuple[int, ...]
    nodes: tuple[TracedNode, ...]
    accepted: tuple[int, ...]
    price: float
    times: StepTimes
    left_out: int = 0
    time: float = 0.0

    def sources(self) -> tuple[str, ...]:
        """Of each token: what drafted it, or TARGET."""
        drafted = [source_name(self.nodes[node].source) for node in self.accepted]
        return (*drafted, *[TARGET] * (len(self.tokens) - len(drafted)))

    def cut(self, count: int) -> "StepTrace":
        """With the first `count` tokens alone: the text ends there."""
        if count >= len(self.tokens):
            return self
        return replace(self, tokens=self.tokens[:count], accepted=self.accepted[:count])

    def slim(self) -> "StepTrace":
        """With the accepted nodes alone, which tell the sources of its tokens."""
        path = tuple(replace(self.nodes[node], parent=i - 1) for i, node in enumerate(self.accepted))
        left_out = self.left_out + len(self.nodes) - len(path)
        return replace(self, nodes=path, accepted=tuple(range(len(path))), left_out=left_out)


def source_name(number: int) -> str:
    if number < len(SOURCE_KINDS):
        return SOURCE_KINDS[number]
    return OWN if number >= FIRST_OWN else UNKNOWN


def to_trace_proto(trace: StepTrace) -> pb.StepTrace:
    """Its tokens and the attempt stand in the reply that carries it."""
    nodes, times = trace.nodes, trace.times
    verified = [node for node, each in enumerate(nodes) if each.verified]
    return pb.StepTrace(
        step=trace.step, base_len=trace.base_len, tokens=[each.token for each in nodes], parents=[each.parent for each in nodes],
        edges=[each.edge for each in nodes], confidences=[each.confidence for each in nodes], sources=[each.source for each in nodes],
        verified=verified, chosen=[NO_CHOICE if (found := nodes[node].chosen) is None else found for node in verified],
        accepted=trace.accepted, left_out=trace.left_out, price=trace.price,
        wait_s=times.wait_s, device_s=times.device_s, step_s=times.step_s,
    )  # fmt: skip


def trace_of(m: pb.GenerateReply) -> StepTrace | None:
    """None where the reply has none, or one that breaks the form."""
    if not m.HasField("trace") or not _fits(m.trace, m.tokens):
        return None
    t = m.trace
    chosen = dict(zip(t.verified, t.chosen, strict=True))
    columns = zip(t.tokens, t.parents, t.edges, t.confidences, t.sources, strict=True)
    nodes = tuple(
        TracedNode(*column, verified=node in chosen, chosen=None if (after := chosen.get(node, NO_CHOICE)) < 0 else after)
        for node, column in enumerate(columns)
    )
    times = StepTimes(t.wait_s, t.device_s, t.step_s)
    return StepTrace(
        t.step, m.attempt, t.base_len, m.first_token_index, tuple(m.tokens), nodes, tuple(t.accepted), t.price, times, t.left_out
    )


def _fits(t: pb.StepTrace, tokens: Sequence[int]) -> bool:
    count = len(t.tokens)
    lists = (t.parents, t.edges, t.confidences, t.sources)
    if count > MAX_NODES or any(len(each) != count for each in lists) or len(t.verified) != len(t.chosen):
        return False
    if not all(ROOT <= parent < node for node, parent in enumerate(t.parents)) or any(node >= count for node in t.verified):
        return False
    if not all(map(math.isfinite, (*t.edges, *t.confidences, t.price, t.wait_s, t.device_s, t.step_s))):
        return False
    if any(node >= count for node in t.accepted) or len(t.accepted) > len(tokens):
        return False
    path = [ROOT, *t.accepted]
    on = all(t.parents[node] == above for above, node in zip(path, t.accepted, strict=False))
    return on and all(t.tokens[node] == token for node, token in zip(t.accepted, tokens, strict=False))
