"""Who is let into the queue, when the refused may come again, and what was cancelled at which point. No clock.

Promises: the queue is bounded, whatever peers say. A request that goes on here after its verifier failed was admitted once, so a
full queue does not refuse it: it has room beyond, for as many as a verifier can have had. Who says so without cause gains no more.
"""

from drafthouse.errors import CONTEXT_EXCEEDED, OverloadError, RequestError
from drafthouse.policy.retry_line import RetryLine
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.totals import VerifyTotals
from verifier.scheduler import Scheduler
from verifier.sequence import Sequence


class Admission:
    def __init__(self, scheduler: Scheduler, totals: VerifyTotals):
        self._scheduler, self._totals = scheduler, totals
        self._line = RetryLine()
        self.most_steps_to_free = 0  # between a cancellation and the release of what it held

    def take_place(self, resumed: bool, now: float) -> None:
        """Raises OverloadError when the queue is full, and for a resumed request when the room beyond is full, too."""
        scheduler = self._scheduler
        if scheduler.overfull if resumed else scheduler.full:
            self._totals.refused += 1
            retry_after_s = self._line.refuse(now, scheduler.in_service)
            raise OverloadError(f"{len(scheduler.waiting)} requests wait already", retry_after_s)
        self._totals.admitted += 1

    def begin_step(self, now: float) -> None:
        self._line.observe(now, self._scheduler.in_service, self._scheduler.ended)

    @property
    def places_per_s(self) -> float:
        return self._line.places_per_s(self._scheduler.in_service)

    def cancelled(self, sequence: Sequence, heard_at_step: int | None) -> None:
        """Before it is released. `heard_at_step`: `totals.steps` when the cancellation was heard of."""
        totals = self._totals
        totals.cancelled += 1
        totals.cancelled_waiting += sequence in self._scheduler.waiting
        totals.cancelled_in_prefill += sequence not in self._scheduler.waiting and sequence.pending > 1
        if heard_at_step is not None:
            self.most_steps_to_free = max(self.most_steps_to_free, totals.steps - heard_at_step)


def check_fits(request: GenerateRequest, context: int, slots: int, vocab_size: int) -> None:
    """Raises RequestError for what can never be served, however long it waits: `slots` are the KV slots of this replica."""
    if len(request.prompt) + request.max_tokens > min(context, slots):
        raise RequestError(
            f"{len(request.prompt)} prompt tokens plus max_tokens {request.max_tokens} exceed "
            f"{'the context' if context <= slots else 'the KV cache'} of {min(context, slots)} tokens",
            "max_tokens", CONTEXT_EXCEEDED,
        )  # fmt: skip
    for field, tokens in (("prompt", request.prompt + request.delivered), ("prediction", request.prediction)):
        if max(tokens, default=0) >= vocab_size:
            raise RequestError(f"{field} holds a token id outside the vocabulary of {vocab_size}", field)
    request.sampling.check_ids(vocab_size)
