"""Callers without an API key that is known: a line of the log for each address, now and then, and never what was sent as a key.

Promises: at most one line for each address in LINE_S, and at most KEPT_ADDRESSES + 1 lines in that time, however many addresses call.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from drafthouse.errors import RequestError
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.fields import shown

logger = logging.getLogger(__name__)

LINE_S = 60.0

KEPT_ADDRESSES = 1000
OTHERS = "others"
"""Stands for all addresses beyond those kept."""


@dataclass(slots=True)
class _Caller:
    """`told_at` in seconds; `untold` calls have come since that line."""

    told_at: float
    untold: int = 0


class KeyRefusals:
    def __init__(self, request_id: Callable[[], str] = str, clock: Callable[[], float] = time.monotonic) -> None:
        """`request_id` says what the client of the request being refused gets in `x-request-id`."""
        self._request_id, self._clock = request_id, clock
        self._callers: dict[str, _Caller] = {}

    def refused(self, address: str, error: RequestError) -> None:
        """A call from this address had no key that is known."""
        now = self._clock()
        address = shown(address) or "unknown"
        caller = self._callers.get(address)
        if caller is None:
            if len(self._callers) >= KEPT_ADDRESSES:
                self._forget(now)
            address = address if len(self._callers) < KEPT_ADDRESSES else OTHERS
            caller = self._callers.setdefault(address, _Caller(float("-inf")))
        caller.untold += 1
        if now - caller.told_at < LINE_S:
            return
        count, caller.told_at, caller.untold = caller.untold, now, 0
        message = f"{address} was refused: {error}" + (f" ({count} calls since the last line)" if count > 1 else "")
        known = self._request_id() or None
        log_event(logger, logging.WARNING, "unauthorized", message, address=address, code=error.code, calls=count, request_id=known)

    def _forget(self, now: float) -> None:
        """Whoever has had no line for LINE_S: the next one would come at once anyway."""
        self._callers = {address: caller for address, caller in self._callers.items() if now - caller.told_at < LINE_S}
