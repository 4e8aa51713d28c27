"""What one verification step is made of: who takes part, what the device runs, and where the walks end."""

from collections.abc import Mapping
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass, field

from drafthouse.engine.segment import Segment
from drafthouse.engine.tree_rows import TreeRows
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Wait:
    """No step now: drafts are worth waiting for, `until` this moment of the engine's clock at most."""

    until: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What the device runs: a segment for each sequence of the plan, those that decode first, with their `trees`. The target chooses a
    token after each of the trees' rows, and one for each of `prompted`: the sequences whose prompt ends in this step."""

    segments: TypingSequence[Segment]
    trees: TreeRows
    prompted: list[Sequence]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is ready for the device. `expected_s` is the time of the run by the latency model."""

    plan: StepPlan
    selected: Selected
    batch: Batch
    expected_s: float

    @property
    def tokens(self) -> int:
        """New tokens on the device."""
        return len(self.plan.decoding) + self.plan.prompt_tokens + self.selected.nodes

    @property
    def segments(self) -> TypingSequence[Segment]:
        return self.batch.segments


@dataclass(slots=True)
class Walked:
    """Where one sequence's walk ended. `tokens` are the accepted draft tokens and the bonus token; `verified` and
    `accepted` count its nodes, `of_drafter` those accepted that are its drafter's. `more`: it ended above further nodes.
    `predicted` and `predicted_accepted` count those nodes that the client's prediction drafted."""

    sequence: Sequence
    tokens: list[int]
    verified: int = 0
    accepted: int = 0
    of_drafter: int = 0
    more: bool = False
    predicted: int = 0
    predicted_accepted: int = 0


@dataclass(frozen=True, slots=True)
class Walks:
    """Of a step: each sequence that got a token, and the verified and the accepted nodes by source."""

    walked: list[Walked]
    verified: Mapping[int, int] = field(default_factory=dict)
    accepted: Mapping[int, int] = field(default_factory=dict)
