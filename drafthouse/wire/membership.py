"""What the controller answers to a report: who else there is, and what is asked of drafts.

Promises: a directive is complete each time or says that it is not, so that everyone can go on with the last one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from drafthouse.wire.client_shares import ClientShare
from drafthouse.wire.named_fields import NamedFields

Role = Literal["gateway", "verifier", "drafter"]


@dataclass(frozen=True, slots=True)
class Route(NamedFields):
    """Where a peer's data plane listens (`host:port`) and how loaded it said it was.

    Of a verifier: whether it has a prefix cache, and how many requests it runs at once; the others of its `capacity` wait. `held_up` of
    its requests wait for want of room; `kv_slots_free` are those that texts may have. Times are in seconds: `step_seconds` of a step of
    all that run, without drafts and prompts, `step_seconds_least` of one with a single request, `prompt_token_seconds` of prefill for
    each token; 0: not known.
    """

    replica: str
    address: str
    fingerprint: str
    load: int
    capacity: int
    caches_prefixes: bool = False
    max_sequences: int = 0
    held_up: int = 0
    kv_slots_free: int = 0
    step_seconds: float = 0.0
    step_seconds_least: float = 0.0
    prompt_token_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Directive(NamedFields):
    """The answer to a heartbeat: gateways route to `verifiers`, a verifier opens sessions on `drafters`.

    `interval_s` is when to report next; replicas keep their last directive when no answer comes. `complete` is false while the
    controller has not yet had the time to hear from everyone: what it does not know of is then to be kept. `gateways` are those that
    report, `shares` what this one may let through of clients with limits; a client that is not there has an even part at each.
    `stopping`: the whole cluster ends, and gateways end their streams with an error. `settings`: what differs from the configuration
    that replicas were started with (`drafthouse.config.live`), as JSON; empty: nothing.
    """

    interval_s: float
    verifiers: tuple[Route, ...] = ()
    drafters: tuple[Route, ...] = ()
    price_floor: float = 0.0
    complete: bool = True
    gateways: int = 1
    shares: Mapping[str, ClientShare] = field(default_factory=dict)
    stopping: bool = False
    settings: str = ""

    def after(self, former: "Directive") -> "Directive":
        """What holds once this has followed `former`."""
        if self.complete:
            return self
        verifiers, drafters = _joined(self.verifiers, former.verifiers), _joined(self.drafters, former.drafters)
        shares, gateways = {**former.shares, **self.shares}, max(self.gateways, former.gateways)
        return replace(self, verifiers=verifiers, drafters=drafters, shares=shares, gateways=gateways)


def _joined(routes: tuple[Route, ...], former: tuple[Route, ...]) -> tuple[Route, ...]:
    known = {route.replica for route in routes}
    return routes + tuple(route for route in former if route.replica not in known)
