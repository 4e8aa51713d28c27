"""A stage: whatever drafts tokens without the draft model, one object for each session.

Promises: a stage says which tokens are likely below one path, nothing else. Where it is asked, what
it may cost, which of its tokens find a place in the tree and what they promise is decided outside
(`drafthouse.stages.session_stages`), for all stages alike. Whatever it says, the text stays the target's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drafthouse.sampling import SamplingParams


class Children(NamedTuple):
    """Likely next tokens, different ones, best first, and what speaks for each: its margin, at least 0.

    A margin has no unit and need not compare between stages: calibration learns for each source how often
    a token of this rank and margin is right. Where scores are at hand it is the lead over the next token,
    as `drafthouse.choose.rank` gives it; the prior that holds before anything is learned is made for those.
    """

    tokens: list[int]
    margins: list[float]


NOTHING = Children([], [])


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a stage is told of its session. `cache_key` names whose traffic may be remembered together; empty: nobody's. `prediction`:
    tokens that the client expects, empty where it expects none."""

    sampling: SamplingParams
    seed: int
    vocab_size: int
    cache_key: str = ""
    prediction: tuple[int, ...] = ()


class Stage(ABC):
    """An own stage is a subclass with a constructor that takes `SessionFacts`."""

    def __init__(self, facts: SessionFacts):
        self.facts = facts

    @abstractmethod
    def follow(self, tokens: Sequence[int]) -> None:
        """Committed tokens that come after all that came before; the first call brings the prompt."""

    @abstractmethod
    def children(self, path: Sequence[int], width: int) -> Children:
        """At most `width` likely tokens after the committed tokens and the drafted tokens `path` below them."""

    def close(self, finished: bool) -> None:
        """The session is over, or the stage has failed in it; nothing is asked afterwards. `finished`: the request has come to its
        own end, which of all its sessions at most one sees."""
        return None
