"""What the tokens of each request are worth now, and whether its objective was kept.

Promises: where no request has a priority or an objective nothing is kept and nothing is done. Worths change once a step, before it is
planned. An objective that cannot be met is said in the log once, and its request is served as any other. Of a request that goes on here
after another verifier the time that has passed there counts.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from drafthouse.objective import Objective
from drafthouse.policy.node_pricing import NodePricing
from drafthouse.policy.token_worth import Progress, out_of_reach, weight, worth, worth_of_first
from drafthouse.telemetry.log_lines import log_event
from drafthouse.wire.generation_messages import GenerateReply
from drafthouse.wire.totals import VerifyTotals
from verifier.sequence import Sequence

logger = logging.getLogger(__name__)

MOST_SAID = 64
"""Objectives of which the log is told that they cannot be met: clients may name any."""


@dataclass(slots=True)
class Clock:
    """On the engine's clock: when the client asked, and when it got its first token, None before that."""

    asked_at: float
    first_at: float | None = None


class TokenWorths:
    def __init__(self, pricing: NodePricing, totals: VerifyTotals):
        self._pricing, self._totals = pricing, totals
        self._uneven: dict[Sequence, Clock] = {}
        self._said: set[Objective] = set()

    @property
    def even(self) -> bool:
        """Whether the tokens of all requests are worth the same."""
        return not self._uneven

    def add(self, s: Sequence, now: float, step_tokens: int) -> None:
        """A request has been admitted; a step runs `step_tokens` of its prompt at most."""
        request = s.request
        if not request.uneven:
            return
        self._uneven[s] = Clock(now - request.waited_s, now - request.since_first_s if request.delivered else None)
        s.worth = self._worth(s, now, self._pricing.plain_step_s, step_tokens)
        objective = request.objective
        if objective is None or objective in self._said or len(self._said) >= MOST_SAID:
            return
        alone_s, prefill_s = 1.0 / self._pricing.plain_rate(1, 0), self._prefill_s(s, step_tokens)
        if out_of_reach(objective, alone_s, prefill_s):
            self._said.add(objective)
            said = (
                f"the objective {objective} cannot be met here: even alone, a request takes {1e3 * alone_s:.3g} ms a step without drafts "
                f"and {1e3 * prefill_s:.3g} ms for a prompt of {s.prompt_len} tokens; such requests are served all the same"
            )
            log_event(logger, logging.WARNING, "objective", said)

    def remove(self, s: Sequence) -> None:
        self._uneven.pop(s, None)

    def begin_step(self, now: float, step_tokens: int) -> None:
        """Weighs again, at the pace of the last step."""
        step_s = self._pricing.plain_step_s
        for s in self._uneven:
            s.worth = self._worth(s, now, step_s, step_tokens)

    def of(self, sequences: Iterable[Sequence]) -> list[float]:
        """Worths by sequence; none where all are worth the same."""
        return [s.worth for s in sequences] if self._uneven else []

    def _prefill_s(self, s: Sequence, step_tokens: int) -> float:
        """Of what is pending, at best."""
        return -(-s.pending // step_tokens) * self._pricing.latency.seconds(min(s.pending, step_tokens), 0)

    def _worth(self, s: Sequence, now: float, step_s: float, step_tokens: int) -> float:
        clock, request = self._uneven[s], s.request
        if clock.first_at is None:
            return worth_of_first(weight(request.priority), request.objective, now - clock.asked_at, self._prefill_s(s, step_tokens))
        progress = Progress(s.output_len, request.max_tokens - s.output_len, now - clock.first_at)
        return worth(weight(request.priority), request.objective, progress, step_s)

    def committed(self, s: Sequence, reply: GenerateReply, now: float) -> None:
        """A request with an objective has got the tokens of `reply`: counts what was kept."""
        clock, objective, totals = self._uneven.get(s), s.request.objective, self._totals
        if clock is None or objective is None:
            return
        if clock.first_at is None and reply.tokens:
            clock.first_at = now
            if not math.isinf(objective.first_token_s):
                totals.first_token_objectives += 1
                totals.first_token_kept += objective.first_kept(now - clock.asked_at)
        if reply.finish_reason in ("stop", "length") and clock.first_at is not None and not math.isinf(objective.per_token_s):
            totals.per_token_objectives += 1
            totals.per_token_kept += objective.pace_kept(now - clock.first_at, s.output_len)
