"""What replicas report to the controller with each heartbeat, by role.

Promises: a report is complete each time, so that the controller's state can be rebuilt from one round of them. `totals` only ever
grow while the process lives; everything else is of the moment. Two versions read each other's (`named_fields`): a new field has a default.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from drafthouse.wire.client_shares import ClientUse
from drafthouse.wire.membership import Role
from drafthouse.wire.named_fields import NamedFields
from drafthouse.wire.totals import DrafterTotals, GatewayTotals, VerifierTotals


@dataclass(frozen=True, slots=True)
class Replica(NamedFields):
    """Who reports: the same for as long as the process lives.

    `address` is where its data plane listens (`host:port`). `fingerprint` is the target's for verifiers, the draft's for drafters
    and empty for gateways. `ranks` are the pids of a tensor-parallel replica's other processes. `vocabulary` is the digest of the
    model's tokenizer; empty where it is not known. `forward` names what runs the model (`native`, `transformers`; empty: no model),
    and `row_invariant` says whether each row's bits are its own there. `threads` says how many run it on a CPU, and how they wait.
    `started`: Unix time.
    """

    name: str
    address: str
    pid: int
    node: str
    fingerprint: str
    ranks: tuple[int, ...] = ()
    vocabulary: str = ""
    forward: str = ""
    row_invariant: bool = False
    threads: str = ""
    started: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReplicaReport(NamedFields):
    """`load` counts requests (gateway, verifier: running and waiting) or sessions (drafter); `capacity` is how many it takes.
    `settings`: the digest of those that hold here and differ from what the replica was started with; empty: none do."""

    replica: Replica
    load: int
    capacity: int
    draining: bool = False
    settings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReport(_ReplicaReport):
    """`clients`: those with limits that have asked for something in the last minute. `incompatible`: verifiers that could not talk to this
    gateway when it last dialled them, and why. `set_aside`: verifiers that get nothing from here for a while, and why.

    `loop_lag_s`: by how much one in a hundred of the event loop's sleeps was late, lately; `loop_cpu_share`: the part of a core that its
    thread has used since the last report.
    """

    role: ClassVar[Role] = "gateway"
    totals: GatewayTotals
    clients: Mapping[str, ClientUse] = field(default_factory=dict)
    incompatible: Mapping[str, str] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)
    loop_lag_s: float = 0.0
    loop_cpu_share: float = 0.0


@dataclass(frozen=True, slots=True)
class DrafterView(NamedFields):
    """What a verifier thinks of one drafter: the share of its promises that came true, and whether it is left alone for a while.
    `round_trip_seconds` is None before the first one."""

    trust: float
    banned: bool
    round_trip_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierReport(_ReplicaReport):
    """Counts of sequences and requests, of KV slots (tokens), `goodput` in tokens/s, prices in tokens per node, times in seconds.
    `kv_slots_cached` are the prefix cache's alone: as good as free, and not among those used. `caches_prefixes`: there is such a cache.

    `held_up` of those that wait do so for want of room, not only for the next step. `decoding` sequences are in the current step;
    `step_seconds_base` is what it takes without drafts, `step_seconds_least` what the shortest step takes, `step_seconds_running` one of
    all that run without drafts and prompts, `prompt_token_seconds` the prefill of a token. `drafters` are those with a stream to this
    verifier, by name. `most_steps_to_free` lie between a cancellation and the release of what it held. `synthetic_acceptance` is the rate
    at which acceptance is drawn; None: it is compared.
    `incompatible`: drafters that this verifier does not ask, since the two could not talk or are no pair, and why.
    """

    role: ClassVar[Role] = "verifier"
    totals: VerifierTotals
    running: int
    waiting: int
    held_up: int
    max_sequences: int
    kv_slots_used: int
    kv_slots_cached: int
    kv_slots: int
    caches_prefixes: bool
    decoding: int
    goodput: float
    price: float
    price_floor: float
    step_seconds_base: float
    step_seconds_least: float
    step_seconds_running: float
    prompt_token_seconds: float
    seconds_per_node: float
    gate_open: bool
    best_edge: float
    drafters: Mapping[str, DrafterView]
    places_per_s: float
    most_steps_to_free: int
    synthetic_acceptance: float | None = None
    incompatible: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterReport(_ReplicaReport):
    """`pass_ms` is what a pass over one node takes, `seconds_per_node` what one more adds; both 0 without a draft model. KV slots: as in
    `VerifierReport`.
    Brier scores, of edges as learned and of the prior's, are None before any label."""

    role: ClassVar[Role] = "drafter"
    totals: DrafterTotals
    pass_ms: float
    seconds_per_node: float
    kv_slots_used: int
    kv_slots_cached: int
    kv_slots: int
    calibration_brier: float | None = None
    calibration_brier_prior: float | None = None


Report = GatewayReport | VerifierReport | DrafterReport

AnyReport = TypeVar("AnyReport", GatewayReport, VerifierReport, DrafterReport)
"""One role's reports, where all that is said of them holds for each role."""
