"""What one verification step is made of: who takes part, what the device runs, and where the walks end."""

from collections.abc import Mapping
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass, field

import numpy as np

from drafthouse.engine.segment import Segment
from drafthouse.engine.tree_rows import TreeRows
from drafthouse.token_logprobs import TokenLogprob
from drafthouse.token_tree import TokenTree
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence
from verifier.unsent_states import WantedStates


@dataclass(frozen=True, slots=True)
class Wait:
    """No step now: drafts are worth waiting for, `until` this moment of the engine's clock at most."""

    until: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What the device runs: a segment for each sequence of the plan, those that decode first, with their `trees`. The target chooses a
    token after each of the trees' rows, and one for each of `prompted`: the sequences whose prompt ends in this step. Of `scored`
    sequences, whose prompt's logprobs are wished for, the device gives the logits of every row of their chunks: (sequence, its first
    row of logits, the position there). `ends`: the rows of logits after the prompts of `prompted`, where there are such ones.
    `states`: those that drafters want."""

    segments: TypingSequence[Segment]
    trees: TreeRows
    prompted: list[Sequence]
    scored: list[tuple[Sequence, int, int]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    states: WantedStates = field(default_factory=WantedStates)


@dataclass(frozen=True, slots=True)
class DraftedTree:
    """What was on offer to one sequence when the step was selected: path confidence of each node, and those verified, ascending."""

    tree: TokenTree
    confidences: TypingSequence[float]
    verified: TypingSequence[int]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is ready for the device. `expected_s` is the time of the run by the latency model. `drafted`, by sequence id, is for
    traces; None: there are none to make."""

    plan: StepPlan
    selected: Selected
    batch: Batch
    expected_s: float
    drafted: Mapping[str, DraftedTree] | None = None

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
    `predicted` and `predicted_accepted` count those nodes that the client's prediction drafted. `rows`: the
    rows of logits that the tokens were chosen from, where their logprobs or states are wished for. `stopped`: the last token ends the
    text."""

    sequence: Sequence
    tokens: list[int]
    verified: int = 0
    accepted: int = 0
    of_drafter: int = 0
    more: bool = False
    predicted: int = 0
    predicted_accepted: int = 0
    rows: np.ndarray | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Walks:
    """Of a step: each sequence that got a token, the verified and the accepted nodes by source, and the logprobs of prompt tokens."""

    walked: list[Walked]
    verified: Mapping[int, int] = field(default_factory=dict)
    accepted: Mapping[int, int] = field(default_factory=dict)
    scored: list[tuple[Sequence, tuple[TokenLogprob, ...]]] = field(default_factory=list)
