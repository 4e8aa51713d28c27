"""A simulated request: what its client sees, what the verifier keeps of it, and KV slots that are only counted."""

import math
from dataclasses import dataclass
from typing import Any, cast

from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.acceptance import Text
from simulator.mix import RequestKind
from verifier.sequence import Sequence


@dataclass(slots=True)
class Request:
    """Seconds of simulated time; `finished_s` None: not yet, or refused."""

    name: str
    text: Text
    arrival_s: float
    target: int = 0
    kind: RequestKind = RequestKind()
    first_token_s: float = 0.0
    finished_s: float | None = None

    def due_s(self) -> float:
        """When its last token had to be there; never without an objective."""
        objective = self.kind.objective
        if objective is None:
            return math.inf
        return self.arrival_s + objective.first_token_s + objective.per_token_s * (self.text.output_tokens - 1)

    def kept(self) -> bool:
        """Whether it was served within its objective, if it has one."""
        if self.finished_s is None or self.kind.objective is None:
            return self.finished_s is not None
        first_s, last_s = self.first_token_s - self.arrival_s, self.finished_s - self.arrival_s
        return self.kind.objective.kept(first_s, last_s, self.text.output_tokens)


class SlotCount:
    """An allocator of which nobody asks for slots by number."""

    def __init__(self, count: int):
        self.count = self.free_count = count
        self.prefixes, self.cached_count = None, 0


class CountedKv:
    """KV of one sequence. Slots are taken for what is kept; drafts that are rejected hold theirs within a step only."""

    __slots__ = ("_length", "_slots")

    def __init__(self, slots: SlotCount):
        self._slots, self._length = slots, 0

    def __len__(self) -> int:
        return self._length

    def extend(self, count: int) -> None:
        self._length += count
        self._slots.free_count -= count

    def release(self) -> None:
        self._slots.free_count += self._length
        self._length = 0

    def adopt(self, tokens: list[int]) -> None:
        """Nothing is cached: the tokens say nothing."""

    def share(self, tokens: list[int]) -> None:
        """Likewise."""

    def retire(self, tokens: list[int]) -> None:
        self.release()


class SimSequence(Sequence):
    """The verifier's own sequence, of token ids that say nothing."""

    def __init__(self, request: Request, speculation: Speculation, slots: SlotCount, weighed: bool):
        """`weighed`: the verifier knows its priority and its objective."""
        text, kind = request.text, request.kind
        self.sim = request
        asked = GenerateRequest(
            request_id=request.name, attempt=1, prompt=(0,) * text.prompt_tokens, delivered=(), sampling=SamplingParams(), seed=0,
            max_tokens=text.output_tokens, stop_tokens=(), speculation=speculation,
            priority=kind.priority if weighed else 0, objective=kind.objective if weighed else None,
        )  # fmt: skip
        super().__init__(asked, cast(Any, CountedKv(slots)), None)

    def count(
        self, drafted: int = 0, verified: int = 0, accepted: int = 0, steps: int = 0, predicted: int = 0, predicted_accepted: int = 0
    ) -> None:
        """A request's own usage is not asked for here."""
