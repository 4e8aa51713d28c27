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
    """One sequence's part of a step. `tree` holds the nodes to verify. `choosing`: the target chooses a token for it; a prompt chunk that
    does not reach the end of the prompt gets none."""

    sequence: Sequence
    segment: Segment
    tree: TokenTree
    choosing: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is ready for the device. `expected_s` is the time of the run by the latency model."""

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
    """Where one sequence's walk ended. `tokens` are the accepted draft tokens and the bonus token, `tree` was verified, and `path` are its
    accepted nodes."""

    sequence: Sequence
    tokens: list[int]
    tree: TokenTree
    path: TypingSequence[int]
