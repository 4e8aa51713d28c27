"""Log-probabilities of tokens that were chosen, and of prompt tokens, from the logits that a step has anyway.

Promises: only rows of sequences that wish for them are looked at, and of a tree only those that its walk went through. A row's numbers
depend on that row alone, so on a row-invariant engine they have the same bits with speculation on and off. Called before the
step's tokens are committed: rows are processed as they were for the choice.
"""

from collections.abc import Sequence

import numpy as np
import torch

from drafthouse.choose import Rows, scores
from drafthouse.token_logprobs import PROCESSED, TokenLogprob
from verifier.step import Step, Walked, Walks


def score(step: Step, walks: Walks, logits: torch.Tensor) -> None:
    """Fills in the logprobs of what was walked, and those of prompt tokens whose rows are in the step."""
    for w in walks.walked:
        wish = w.sequence.request.logprobs
        if wish.top is not None and w.rows is not None:
            rows = logits[torch.from_numpy(w.rows).to(logits.device)]
            w.logprobs = tuple(logprobs_of(_processed(w, rows) if wish.mode == PROCESSED else rows, w.tokens, wish.top))
    for s, first, start in step.batch.scored:
        end = min(len(s.kv), s.prompt_len - 1)  # the rows after these tell of the output
        done = s.prompt_len - s.unscored - 1  # the row before the first token that is still to be scored
        if end > done:
            rows = logits[first + done - start : first + end - start]
            walks.scored.append((s, tuple(logprobs_of(rows, s.tokens[done + 1 : end + 1], s.request.logprobs.prompt_top or 0))))


def _processed(w: Walked, rows: torch.Tensor) -> torch.Tensor:
    """As for the choice, without noise."""
    s, count = w.sequence, len(w.tokens)
    paths = [w.tokens[:i] for i in range(count)]
    positions = range(len(s.tokens), len(s.tokens) + count)
    return scores(rows, [Rows(s.request.sampling, s.request.seed, positions, paths, s.processors)], noise=False)


def logprobs_of(rows: torch.Tensor, tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """Of one token after each row of scores `[N, vocab]`, with the `top` likeliest, of equal ones the lower id first."""
    if not len(tokens):
        return []
    logprobs = rows.float().log_softmax(-1)
    chosen = logprobs.gather(1, torch.from_numpy(np.array(tokens, dtype=np.int64)).to(rows.device)[:, None])
    ranks = (logprobs > chosen).sum(-1) + 1
    ids, values = _top(logprobs, min(top, logprobs.shape[1]))
    each = zip(chosen[:, 0].tolist(), ranks.tolist(), ids, values, strict=True)
    return [TokenLogprob(logprob, rank, tuple(best), tuple(theirs)) for logprob, rank, best, theirs in each]


def _top(logprobs: torch.Tensor, count: int) -> tuple[list[list[int]], list[list[float]]]:
    tokens = logprobs.topk(count).indices.sort(-1).values
    values, places = logprobs.gather(1, tokens).sort(dim=-1, descending=True, stable=True)
    return tokens.gather(1, places).tolist(), values.tolist()
