"""Verifiers that this gateway sets aside, and those that serve again, as lines of its log and in its report.

Promises: one line for each failure that sets a verifier aside, or for longer, and one when it serves again; nothing for one that drains or
has gone, of which the controller's log has a line.
"""

import logging
from collections.abc import Collection, Mapping

from deployments.gateway.request_progress import DRAINS
from drafthouse.policy.set_aside import Aside
from drafthouse.telemetry.log_lines import log_event

logger = logging.getLogger(__name__)


class SetAsideEvents:
    def __init__(self) -> None:
        self._told: dict[str, Aside] = {}

    def tell(self, aside: Mapping[str, Aside], routed: Collection[str]) -> dict[str, str]:
        """Logs what has changed since the last call; returns why, by verifier. `routed`: all that may be asked."""
        now = {verifier: held for verifier, held in aside.items() if held.reason != DRAINS}
        former, self._told = self._told, now
        for verifier, held in now.items():
            if verifier not in former or held.times > former[verifier].times:
                message = f"verifier {verifier} is set aside for {held.seconds:g} s: {held.reason}"
                log_event(
                    logger, logging.WARNING, "set aside", message,
                    verifier=verifier, reason=held.reason, seconds=held.seconds, times=held.times,
                )  # fmt: skip
        for verifier in former:
            if verifier not in now and verifier in routed:
                log_event(logger, logging.INFO, "serves again", f"verifier {verifier} is not set aside any more", verifier=verifier)
        return {verifier: f"{held.reason}; for {held.seconds:g} s" for verifier, held in now.items()}
