"""Who has come and gone since the last look, and who has begun to drain, as lines of the log.

Promises: one line for each change; who goes without having drained is lost, at level WARNING.
"""

import logging
from collections.abc import Mapping
from typing import Any

from controller.live_pool import LivePool
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.membership import Role

logger = logging.getLogger(__name__)

Member = tuple[Role, str]


class MembershipEvents:
    def __init__(self) -> None:
        self._draining: dict[Member, bool] = {}

    def tell(self, pools: Mapping[Role, LivePool[Any]]) -> None:
        """Logs what has changed since the last call."""
        now = {(role, r.replica.name): r.draining for role, pool in pools.items() for r in pool.reports()}
        former, self._draining = self._draining, now
        for member, draining in now.items():
            if member not in former:
                _log(logging.INFO, "joined", member, "has joined")
            if draining and not former.get(member, False):
                _log(logging.INFO, "drain", member, "takes nothing new: it drains, or it is broken")
        for member, drained in former.items():
            if member in now:
                continue
            if drained or member[0] == "gateway":  # gateways are drained by Serve, without a word to us
                _log(logging.INFO, "left", member, "has left")
            else:
                _log(logging.WARNING, "lost", member, "is lost: it reports no more, and had not drained")


def _log(level: int, event: str, member: Member, what: str) -> None:
    role, name = member
    log_event(logger, level, event, f"{role} {name} {what}", role=role, peer=name)
