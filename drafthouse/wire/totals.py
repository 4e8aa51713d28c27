"""What each role counts: numbers that only grow while its process lives, so that rates and sums can be made of them.

Promises: no Ray, no threads. Roles count in these objects themselves; a report carries copies.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from drafthouse.wire.named_fields import NamedFields

Outcome = Literal["served", "cancelled", "refused", "unavailable", "rejected", "failed"]
"""How a request may end, as `drafthouse/telemetry/metrics.py` explains."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

MoveReason = Literal["drain", "room", "spread"]
"""Why a request went to another verifier though nothing failed: its own drains; it waited, and there was room; another was far emptier."""

MOVE_REASONS: tuple[MoveReason, ...] = get_args(MoveReason)


@dataclass(slots=True)
class GatewayTotals(NamedFields):
    """`requests` counts choices, each of which a verifier serves by itself, and `outcome` how they ended.

    `failovers` are streams that broke and went on at another verifier, `moves` those that went there without need, by reason.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    failovers: int = 0
    moves: dict[MoveReason, int] = field(default_factory=lambda: dict.fromkeys(MOVE_REASONS, 0))


@dataclass(slots=True)
class VerifyTotals(NamedFields):
    """A verifier's steps and requests.

    `step_seconds` are from the plan to the choice of tokens, of which `select_seconds` until the batch is ready, `run_seconds` on the
    device and `choose_seconds` the rest; `wait_seconds` between steps while there was work, of which `gather_seconds` for drafts that
    were announced.

    `predicted_tokens` and `predicted_seconds` are what selection expected of the steps, to be held against `committed` and
    `run_seconds`; `offered` are the nodes that it had to choose from. Of the `committed` tokens a grammar
    left no other than the `forced` ones. `trees` were made here: one for each session, commit and Grow. Of the target's hidden states
    `state_bytes` were sent to drafters; making them ready took `state_seconds`, which `choose_seconds` hold.
    `first_token_objectives` are requests with an objective for their first token that got it here, `first_token_kept` those of them that
    got it in time; `per_token_objectives` are requests with one for the later tokens that ended here, `per_token_kept` those that kept it.
    A request is `refused` for a full queue or `admitted`, and then it is
    `finished`, `cancelled` (some while they waited or before all of their prompt had run), `superseded` by a later attempt, `returned` to
    its gateway, or `failed` with its step; until then it is running or waiting.
    """

    steps: int = 0
    committed: int = 0
    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    forced: int = 0
    prompt_tokens: int = 0
    admitted: int = 0
    finished: int = 0
    cancelled: int = 0
    cancelled_waiting: int = 0
    cancelled_in_prefill: int = 0
    superseded: int = 0
    returned: int = 0
    failed: int = 0
    refused: int = 0
    draft_messages: int = 0
    trees: int = 0
    offered: int = 0
    predicted_tokens: float = 0.0
    predicted_seconds: float = 0.0
    step_seconds: float = 0.0
    select_seconds: float = 0.0
    run_seconds: float = 0.0
    choose_seconds: float = 0.0
    wait_seconds: float = 0.0
    gather_seconds: float = 0.0
    state_bytes: int = 0
    state_seconds: float = 0.0
    first_token_objectives: int = 0
    first_token_kept: int = 0
    per_token_objectives: int = 0
    per_token_kept: int = 0


@dataclass(slots=True)
class SessionEvents(NamedFields):
    """A verifier's draft sessions: `opened`; `refused` or `dropped` by the drafter for now, or `unfit`, for good; `lost` with its stream or
    since it hangs; ended for a `malformed` message. `stale` messages are of sessions that are no more, `unknown` ones of kinds that this
    version does not have; `banned` counts drafters."""

    opened: int = 0
    refused: int = 0
    dropped: int = 0
    lost: int = 0
    stale: int = 0
    malformed: int = 0
    banned: int = 0
    unfit: int = 0
    unknown: int = 0


@dataclass(slots=True)
class DraftTotals(NamedFields):
    """`guessed` nodes of inner stages that passes took along, and how many `came_true`; commits, and those after which a part of the tree
    was left (`predrafted`); committed tokens before which the draft had run (`judged`), and those of them that it had ranked `first`;
    tokens that sessions found in the prefix cache when they began (`cached_tokens`); `state_bytes` of the target's hidden states that came,
    and the `state_seconds` that reading them took."""

    sessions: int = 0
    passes: int = 0
    pass_seconds: float = 0.0
    drafted: int = 0
    guessed: int = 0
    came_true: int = 0
    commits: int = 0
    predrafted: int = 0
    judged: int = 0
    first: int = 0
    dropped: int = 0
    refused: int = 0
    cached_tokens: int = 0
    state_bytes: int = 0
    state_seconds: float = 0.0


@dataclass(slots=True)
class StageCounts(NamedFields):
    """Of all sessions: nodes that stages without a model added, seconds that they took, how many were dropped for a fault, and rests.
    The stage inside the model stage counts too, but for its nodes, which are guesses."""

    stage_nodes: int = 0
    stage_seconds: float = 0.0
    stage_faults: int = 0
    stage_rests: int = 0


@dataclass(frozen=True, slots=True)
class PacedTotals(NamedFields):
    """Steps or passes on a paced device, and those that took longer than its curve."""

    paced_steps: int
    paced_overruns: int


@dataclass(frozen=True, slots=True)
class VerifierTotals(NamedFields):
    """All that a verifier reports of what it counts. `cached_tokens` needed no prefill, since their KV was in the prefix cache; `stages`
    run in its own process; `paced` is None on another device."""

    verify: VerifyTotals
    sessions: SessionEvents
    stages: StageCounts
    preemptions: int
    cached_tokens: int
    step_faults: int
    paced: PacedTotals | None


@dataclass(frozen=True, slots=True)
class DrafterTotals(NamedFields):
    """All that a drafter reports of what it counts. `busy_seconds` are those not spent on waiting for messages."""

    draft: DraftTotals
    stages: StageCounts
    calibration_labels: int
    malformed: int
    pass_faults: int
    busy_seconds: float
    paced: PacedTotals | None
