"""What a verifier knows of one drafter, whatever the session."""

from dataclasses import dataclass, field

from drafthouse.policy.responsiveness import Responsiveness
from drafthouse.policy.start_rule import FirstNodes
from drafthouse.policy.trust import Standing, TrustRecord


@dataclass(slots=True)
class DrafterRecord:
    standing: Standing = field(default_factory=Standing)
    announcement_record: TrustRecord = field(default_factory=TrustRecord)  # of its announcements, whatever the target accepts
    first_nodes: FirstNodes = field(default_factory=FirstNodes)
    responsiveness: Responsiveness = field(default_factory=Responsiveness)
    sessions: int = 0

    def usable(self, now: float) -> bool:
        return not self.standing.banned(now) and not self.responsiveness.hung(now)
