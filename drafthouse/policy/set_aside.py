"""Which replicas a gateway leaves alone for a while, after what it saw of them. No clock, no chance.

Promises: a replica that fails is set aside, for twice as long each time that a trial fails, up to LONGEST_S; then one request at a time
tries it, and a token of an attempt that began after the failure clears it. One request sets no two replicas aside: what fails in several
places says more of the request than of them, until the request is served elsewhere. ENOUGH such requests at a replica with no service
between speak against it, too, unless they do so against half of the pool: then the requests are at fault. To be set aside is to come
last, so a pool of which all are set aside serves as if none were.
"""

from collections.abc import Set
from dataclasses import dataclass, field

FIRST_S, LONGEST_S = 10.0, 160.0
"""In a large pool the controller needs the first to take a dead replica out."""

FIRST_REFUSAL_S, LONGEST_REFUSAL_S = 0.25, 8.0
"""A queue moves on with each request that ends; a replica that refuses though it reports room is asked ever less."""

ENOUGH = 3
"""Requests that failed here and elsewhere, and together speak against a replica."""

KEPT_ACCUSERS = 256
"""Many: those of them that fail elsewhere, too, are taken back, and what is left speaks against the replica."""


@dataclass(frozen=True, slots=True)
class Aside:
    """What is held against a replica: failures one after the other, why the last one was, and for how many seconds each sets it aside."""

    times: int
    reason: str
    seconds: float


@dataclass(slots=True)
class _Record:
    """Of one replica, since the last attempt that began and was served there. Times in seconds."""

    times: int = 0  # the first failure, and each trial that failed
    reason: str = ""  # of the last one
    failed_at: float = float("-inf")
    until: float = float("-inf")
    on_trial: bool = False
    gone: bool = False
    accusers: set[str] = field(default_factory=set)  # requests that failed here and nowhere else, KEPT_ACCUSERS at most
    doubtful: set[str] = field(default_factory=set)  # requests that failed elsewhere, too, ENOUGH at most
    refusals: int = 0
    refused_at: float = float("-inf")
    full_until: float = float("-inf")

    @property
    def certain(self) -> bool:
        return self.gone or bool(self.accusers)

    @property
    def doubted(self) -> bool:
        return len(self.doubtful) >= ENOUGH

    def fail(self, now: float, why: str) -> None:
        self.reason = why
        if not self.times or self.on_trial or now >= self.until:  # not one of many that failed together
            self.times, self.on_trial = self.times + 1, False
        self.failed_at, self.until = now, now + self.backoff_s

    @property
    def backoff_s(self) -> float:
        return _doubled(FIRST_S, LONGEST_S, self.times)


class SetAside:
    """By replica. `now` is in seconds, on any clock that is always the same."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._pool = self._doubted = 0  # replicas; those that ENOUGH doubtful requests speak against
        self._failed: dict[str, list[str]] = {}  # by request that goes on: where it failed, the first in front

    def keep(self, replicas: Set[str]) -> None:
        """The pool as it is. Forgets all others."""
        self._pool = len(replicas)
        self._records = {replica: record for replica, record in self._records.items() if replica in replicas}
        self._count()

    def gone(self, replica: str, now: float, why: str = "") -> None:
        """It cannot be reached, takes no requests, or drains: no request is the cause."""
        record = self._record(replica)
        record.gone = True
        record.fail(now, why)

    def failed(self, replica: str, request: str, now: float, why: str = "") -> None:
        """An attempt at this request broke off there, or was answered with an error."""
        where = self._failed.setdefault(request, [])
        where.append(replica)
        record = self._record(replica)
        record.fail(now, why)
        if len({*where}) == 1:
            _add(record.accusers, request, KEPT_ACCUSERS)
            return
        _add(record.doubtful, request)
        if (first := self._records.get(where[0])) is not None and request in first.accusers:
            first.accusers.discard(request)
            _add(first.doubtful, request)
        self._count()

    def refused(self, replica: str, now: float) -> None:
        """It has no room."""
        record = self._record(replica)
        if now >= record.full_until:
            record.refusals += 1
            record.full_until = now + _doubled(FIRST_REFUSAL_S, LONGEST_REFUSAL_S, record.refusals)
        record.refused_at = now

    def began(self, replica: str, now: float) -> None:
        """An attempt is sent there. After a failure it is the only one until it is served, or as much time has passed again."""
        record = self._records.get(replica)
        if record is not None and record.times and now >= record.until:
            record.on_trial, record.until = True, now + record.backoff_s

    def served(self, replica: str, request: str, began: float, now: float) -> None:
        """An attempt that began then has got tokens there. So the request is sound, and those where it failed are not."""
        record = self._records.get(replica)
        if record is not None and began >= max(record.failed_at, record.refused_at):
            del self._records[replica]
        for other in {*self._failed.pop(request, ())} - {replica}:
            if (accused := self._records.get(other)) is not None and request in accused.doubtful:
                accused.doubtful.discard(request)
                _add(accused.accusers, request, KEPT_ACCUSERS)
                accused.until = now + accused.backoff_s
        self._count()

    def ended(self, request: str) -> None:
        """Nothing more will be heard of this request."""
        self._failed.pop(request, None)

    def failing(self, replica: str, now: float) -> bool:
        record = self._records.get(replica)
        return record is not None and now < record.until and self._speaks_against(record)

    def all(self) -> dict[str, Aside]:
        """By replica: those set aside, and those that have yet to serve a trial."""
        speaking = {replica: record for replica, record in self._records.items() if self._speaks_against(record)}
        return {replica: Aside(record.times, record.reason, record.backoff_s) for replica, record in speaking.items()}

    def _speaks_against(self, record: _Record) -> bool:
        return record.certain or (record.doubted and 2 * self._doubted < self._pool)

    def on_record(self, replica: str) -> bool:
        """Whether it has failed since it last served an attempt."""
        record = self._records.get(replica)
        return record is not None and record.times > 0

    def full(self, replica: str, now: float) -> bool:
        record = self._records.get(replica)
        return record is not None and now < record.full_until

    def _count(self) -> None:
        self._doubted = sum(record.doubted for record in self._records.values())

    def _record(self, replica: str) -> _Record:
        return self._records.setdefault(replica, _Record())


def _doubled(first_s: float, longest_s: float, times: int) -> float:
    return float(min(longest_s, first_s * 2.0 ** min(times - 1, 30)))


def _add(few: set[str], request: str, most: int = ENOUGH) -> None:
    if len(few) < most:
        few.add(request)
