"""What one verification step is made of: who takes part, what the device runs, and where the walks end."""

from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass

from drafthouse.engine.segment import Segment
from drafthouse.token_tree import TokenTree
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Wait:
    """No step now: drafts are worth waiting for, `until` this moment of the engine's clock at most."""

    until: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence's part of a step; `tree` holds the nodes that are verified, `choosing` is whether it gets a token."""

    sequence: Sequence
    segment: Segment
    tree: TokenTree
    choosing: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A step that may run: `expected_s` is how long the latency model takes the run to be."""

    plan: StepPlan
    selected: Selected
    entries: TypingSequence[Entry]
    expected_s: float

    @property
    def tokens(self) -> int:
        """New tokens on the device."""
        return len(self.plan.decoding) + self.plan.prompt_tokens + self.selected.nodes

    @property
    def segments(self) -> list[Segment]:
        return [entry.segment for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Walked:
    """Accepted draft tokens and the bonus token; the tree that was verified, and which of its nodes were accepted."""

    sequence: Sequence
    tokens: list[int]
    tree: TokenTree
    path: TypingSequence[int]
