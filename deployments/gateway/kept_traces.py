"""Traces of recent requests, for clients that ask for them by the request's id (docs/trace.md).

Promises: at most MAX_REQUESTS requests, MAX_STEPS steps of each and MAX_NODES nodes in all are kept, the latest ones. A trace is shown
to the client that made the request and to no other.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace

from deployments.gateway.detokenizer import TokenBytes
from deployments.gateway.text_stream import TextDelta
from drafthouse.wire.step_trace import StepTrace

MAX_REQUESTS = 64
MAX_STEPS = 1024
MAX_NODES = 1 << 17
"""About 30 MB."""


@dataclass(slots=True, eq=False)
class KeptTrace:
    """Of one request with its `choices`. `steps` are pairs (choice, step) in the order in which they came; `left_out` counts those before
    them that are gone, `nodes` what they hold. `ended`, by choice: why its output ended."""

    id: str
    cache_key: str
    choices: int
    token_bytes: TokenBytes
    steps: deque[tuple[int, StepTrace]] = field(default_factory=deque)
    left_out: int = 0
    nodes: int = 0
    ended: dict[int, str] = field(default_factory=dict)

    def snapshot(self) -> "KeptTrace":
        """As it is now, for another thread."""
        return replace(self, steps=self.steps.copy(), ended=dict(self.ended))

    def drop_first(self) -> None:
        self.nodes -= len(self.steps.popleft()[1].nodes)
        self.left_out += 1


class KeptTraces:
    def __init__(self, max_requests: int = MAX_REQUESTS, max_steps: int = MAX_STEPS, max_nodes: int = MAX_NODES) -> None:
        self._max_requests, self._max_steps, self._max_nodes = max_requests, max_steps, max_nodes
        self._kept: OrderedDict[str, KeptTrace] = OrderedDict()  # by name, the oldest first

    def begin(self, request_id: str, cache_key: str, choices: int, token_bytes: TokenBytes) -> KeptTrace:
        """Makes room for the trace of a request whose client is that of `cache_key`."""
        kept = self._kept[_name(request_id)] = KeptTrace(request_id, cache_key, choices, token_bytes)
        while len(self._kept) > self._max_requests:
            self._kept.popitem(last=False)
        return kept

    def add(self, kept: KeptTrace, choice: int, delta: TextDelta) -> None:
        """The next steps of a request. One that has had to go is not kept again."""
        if delta.finish_reason:
            kept.ended[choice] = delta.finish_reason
        if self._kept.get(_name(kept.id)) is not kept:
            return
        for step in delta.trace:
            kept.steps.append((choice, step))
            kept.nodes += len(step.nodes)
            if len(kept.steps) > self._max_steps:
                kept.drop_first()
        self._fit(kept)

    def find(self, request_id: str, cache_key: str) -> KeptTrace | None:
        """None for a request of another client, too."""
        kept = self._kept.get(_name(request_id))
        return kept if kept is not None and kept.cache_key == cache_key else None

    def _fit(self, growing: KeptTrace) -> None:
        """Whole traces of older requests go before the first steps of the one that grows."""
        over = sum(kept.nodes for kept in self._kept.values()) - self._max_nodes
        if over <= 0:
            return
        for name, kept in list(self._kept.items()):
            if over > 0 and kept is not growing and kept.nodes:
                over -= kept.nodes
                del self._kept[name]
        while over > 0 and growing.steps:
            before = growing.nodes
            growing.drop_first()
            over -= before - growing.nodes


def _name(request_id: str) -> str:
    """What stands behind the kind of request: /v1/responses has another sign there than the other routes."""
    return request_id.replace("_", "-").rpartition("-")[2]
