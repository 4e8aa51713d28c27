"""What a verifier knows of one drafter, whatever the session."""

from dataclasses import dataclass, field

from drafthouse.policy.honesty import Standing
from drafthouse.policy.start_rule import Replies


@dataclass(slots=True)
class DrafterRecord:
    standing: Standing = field(default_factory=Standing)
    replies: Replies = field(default_factory=Replies)
    sessions: int = 0
