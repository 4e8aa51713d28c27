"""What a verifier has done since it started."""

from dataclasses import dataclass


@dataclass
class VerifyTotals:
    """Counters that only grow.

    `step_seconds` are from the plan to the choice of tokens, of which `select_seconds` until the run, `run_seconds` on the device;
    `wait_seconds` between steps while there was work, of which `gather_seconds` for drafts that were announced.

    `predicted_tokens` and `predicted_seconds` are what selection expected of the steps, to be held against `committed` and
    `run_seconds`; `offered` are the nodes that it had to choose from. A request is `refused` for a full queue or `admitted`, and then it
    is `finished`, `cancelled` (some while they waited or before all of their prompt had run), `superseded` by a later attempt, or
    `failed` with its step; until then it is running or waiting.
    """

    steps: int = 0
    committed: int = 0
    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    prompt_tokens: int = 0
    admitted: int = 0
    finished: int = 0
    cancelled: int = 0
    cancelled_waiting: int = 0
    cancelled_in_prefill: int = 0
    superseded: int = 0
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
