"""Log-probabilities of tokens: what a request wishes to know, and what is found. Pure data: `verifier.scoring` computes them."""

from dataclasses import dataclass

from drafthouse.errors import RequestError

MAX_TOP_LOGPROBS = 20
RAW, PROCESSED = "raw_logprobs", "processed_logprobs"
MODES = (RAW, PROCESSED)
"""vLLM's names. Raw: of the target's own logits. Processed: of what the token was chosen from, after penalties, bias, masks, temperature
and filters, without noise. Those of prompts are always raw."""


@dataclass(frozen=True, slots=True)
class LogprobsWish:
    """`top` and `prompt_top` (0 to MAX_TOP_LOGPROBS): how many of the likeliest tokens beside each token of the output and of the prompt;
    None: nothing is wanted."""

    top: int | None = None
    prompt_top: int | None = None
    mode: str = RAW

    def check(self, top: str = "logprobs", prompt_top: str = "prompt_logprobs") -> None:
        """Raises RequestError naming the first field out of range by the client's own name."""
        for name, value in ((top, self.top), (prompt_top, self.prompt_top)):
            if value is not None and not 0 <= value <= MAX_TOP_LOGPROBS:
                raise RequestError(f"{name} must be between 0 and {MAX_TOP_LOGPROBS}, not {value}", name)
        if self.mode not in MODES:
            raise RequestError(f"logprobs_mode must be one of {', '.join(MODES)}, not {self.mode!r}", "logprobs_mode")


NO_LOGPROBS = LogprobsWish()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Of one token after those before it: float32 natural logarithm, -inf for a token that could not be chosen, and its rank from 1 on.
    The likeliest tokens with theirs, best first."""

    logprob: float
    rank: int
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()

    def best(self, count: int) -> "TokenLogprob":
        """With fewer of the likeliest."""
        return TokenLogprob(self.logprob, self.rank, self.top_ids[:count], self.top_logprobs[:count])
