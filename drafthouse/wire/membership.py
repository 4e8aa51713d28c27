"""What replicas report to the controller and what it answers: the whole of the control plane.

Promises: reports and directives are complete each time, so that the controller's state can be
rebuilt from one round of heartbeats, and everyone can go on with the last directive.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

SYNTHETIC_GAUGE = "synthetic_acceptance"
"""A verifier that draws acceptance instead of comparing tokens reports the rate under this name; others report none."""

Role = Literal["gateway", "verifier", "drafter"]


@dataclass(frozen=True, slots=True)
class Report:
    """One heartbeat. `fingerprint` is the target's for verifiers, the draft's for drafters and empty for gateways.

    `load` counts requests (gateway, verifier: running and waiting) or sessions (drafter).
    `ranks` are the pids of a tensor-parallel replica's other processes.
    `totals` only ever grow while the process lives; `gauges` are of the moment.
    """

    role: Role
    replica: str
    address: str
    pid: int
    node: str
    fingerprint: str
    load: int
    capacity: int
    totals: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    draining: bool = False
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Where a peer's data plane listens (`host:port`) and how loaded it said it was."""

    replica: str
    address: str
    fingerprint: str
    load: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Directive:
    """The answer to a heartbeat: gateways route to `verifiers`, a verifier opens sessions on `drafters`.

    `interval_s` is when to report next; replicas keep their last directive when no answer comes. `complete` is false while the
    controller has not yet had the time to hear from everyone: what it does not know of is then to be kept.
    """

    interval_s: float
    verifiers: tuple[Route, ...] = ()
    drafters: tuple[Route, ...] = ()
    price_floor: float = 0.0
    complete: bool = True

    def after(self, former: "Directive") -> "Directive":
        """What holds once this has followed `former`."""
        if self.complete:
            return self
        verifiers, drafters = _joined(self.verifiers, former.verifiers), _joined(self.drafters, former.drafters)
        return replace(self, verifiers=verifiers, drafters=drafters)


def _joined(routes: tuple[Route, ...], former: tuple[Route, ...]) -> tuple[Route, ...]:
    known = {route.replica for route in routes}
    return routes + tuple(route for route in former if route.replica not in known)
