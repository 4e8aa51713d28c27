"""Top-k, top-p and min-p: which tokens of each row may be chosen.

Promises: what a row keeps depends on its own scores and parameters alone, and not on the way in which it is found: looking
at a head of a few hundred, at buckets of scores, or at all tokens in order gives the same. Two definitions hold that.

- *Order*: higher scores first, of equal ones the lower id.
- *Mass* of a token: its probability, a float32 of the softmax over its row (over the best `top_k` where that is set),
  rounded down to a whole number of 2**-48. Sums of whole numbers are exact in any order. Top-p keeps a token while the
  mass of those before it is below `top_p`.
"""

import math
from collections.abc import Sequence

import torch

from drafthouse.sampling import SamplingParams

HEAD = 256
"""Of the best tokens so many are put in order first. Of a row of 49,152 that takes a twentieth of the time that sorting it does, and in
text they mostly hold what top-p keeps."""

MASS_BITS = 48

BUCKETS, BUCKETS_PER_UNIT = 1024, 64.0
"""Scores by their distance from the best. The last bucket holds all that are more than 16 below it, a millionth as likely."""

BLOCK_ROWS = 4
"""On a CPU this many rows are put into buckets at a time, so that what is computed of them stays in its caches."""

Kept = tuple[torch.Tensor, torch.Tensor]
"""Rows and token ids, int64 `[K]` each, in no particular order."""


def kept(scaled: torch.Tensor, sampling: Sequence[SamplingParams], head: int = HEAD) -> Kept:
    """Of scores after temperature, float32 `[N, vocab]`. The best token of a row always stays. `head` changes nothing but the time."""
    vocab_size = scaled.shape[1]
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, each in enumerate(sampling):
        top_k = each.top_k if each.top_k < vocab_size else 0
        groups.setdefault((top_k, not top_k and each.top_p >= 1.0), []).append(i)
    found = []
    for (top_k, min_p_alone), at in groups.items():
        part, mine = (scaled, sampling) if len(groups) == 1 else (scaled[at], [sampling[i] for i in at])
        if min_p_alone:
            rows, tokens = _above(part, mine, part.amax(-1)).nonzero(as_tuple=True)
        elif top_k:
            rows, tokens = _best(part, mine, top_k)
        else:
            rows, tokens = _nucleus(part, mine, min(head, vocab_size))
        found.append((torch.tensor(at, device=scaled.device)[rows], tokens))
    return _joined(found)


def _joined(found: Sequence[Kept]) -> Kept:
    return found[0] if len(found) == 1 else (torch.cat([rows for rows, _ in found]), torch.cat([tokens for _, tokens in found]))


def _best(scaled: torch.Tensor, sampling: Sequence[SamplingParams], top_k: int) -> Kept:
    """All rows have this top-k."""
    ordered, tokens, sure, _ = _in_order(scaled, top_k)
    if bool((sure < top_k).any()):
        ordered, tokens, _, _ = _in_order(scaled, scaled.shape[1])
        ordered, tokens = ordered[:, :top_k].contiguous(), tokens[:, :top_k]
    inside, _ = _inside(ordered, _mass(ordered.softmax(-1)), sampling)
    rows, places = inside.nonzero(as_tuple=True)
    return rows, tokens[rows, places]


def _nucleus(scaled: torch.Tensor, sampling: Sequence[SamplingParams], head: int) -> Kept:
    """Rows with a top-p and no top-k: of a row whose head may not hold all that it keeps, buckets tell."""
    probabilities = scaled.softmax(-1)
    ordered, tokens, sure, beyond = _in_order(scaled, head)
    inside, through = _inside(ordered, _mass(probabilities.gather(1, tokens)), sampling)
    certain = through.gather(1, (sure - 1).clamp(min=0)[:, None])[:, 0].masked_fill(sure == 0, 0)
    cut_by_min_p = ~_above(beyond[:, None], sampling, ordered[:, 0])[:, 0]
    done = (certain >= _limits(sampling, scaled.device)) | cut_by_min_p | (sure == scaled.shape[1])
    rows, places = (inside & done[:, None]).nonzero(as_tuple=True)
    found = [(rows, tokens[rows, places])]
    left = (~done).nonzero()[:, 0]
    for some in left.split(BLOCK_ROWS if scaled.device.type == "cpu" else max(1, len(left))) if len(left) else ():
        rows, tokens = _by_buckets(scaled[some], _mass(probabilities[some]), [sampling[i] for i in some.tolist()])
        found.append((some[rows], tokens))
    return _joined(found)


def _by_buckets(scaled: torch.Tensor, mass: torch.Tensor, sampling: Sequence[SamplingParams]) -> Kept:
    """All tokens of the buckets before the one in which the limit is reached, and of that one those before the limit, in order.

    A higher score is never in a later bucket, so the buckets are in order too.
    """
    limits, best = _limits(sampling, scaled.device), scaled.amax(-1)
    bucket = ((best[:, None] - scaled) * BUCKETS_PER_UNIT).clamp_(max=BUCKETS - 1.0).long()
    through = mass.new_zeros(len(scaled), BUCKETS).scatter_add_(1, bucket, mass).cumsum(-1)
    last = (through < limits[:, None]).sum(-1)  # BUCKETS, if rounding leaves all mass together below the limit
    whole = (bucket < last[:, None]).logical_and_(_above(scaled, sampling, best)).nonzero(as_tuple=True)
    rows, tokens = (bucket == last[:, None]).nonzero(as_tuple=True)
    order = scaled[rows, tokens].argsort(descending=True, stable=True)  # tokens rise, and so they do among equals
    order = order[rows[order].argsort(stable=True)]
    rows, tokens = rows[order], tokens[order]
    through_all = mass[rows, tokens].cumsum(0)
    before_all = through_all - mass[rows, tokens]
    first = torch.searchsorted(rows, rows)  # each row's first place
    before = before_all - before_all[first] + through[rows, (last[rows] - 1).clamp(min=0)].masked_fill(last[rows] == 0, 0)
    inside = (before < limits[rows]) & _above(scaled, sampling, best)[rows, tokens]
    return _joined([whole, (rows[inside], tokens[inside])])


def _inside(ordered: torch.Tensor, mass: torch.Tensor, sampling: Sequence[SamplingParams]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places of rows in order top-p and min-p keep, bool `[N, places]`, a run from the first on; and the mass through each."""
    through = mass.cumsum(-1)
    inside = through - mass < _limits(sampling, ordered.device)[:, None]
    inside &= _above(ordered, sampling, ordered[:, 0])
    return inside, through


def _mass(probabilities: torch.Tensor) -> torch.Tensor:
    """int64; the product is exact."""
    return (probabilities * 2.0**MASS_BITS).long()


def _limits(sampling: Sequence[SamplingParams], device: torch.device) -> torch.Tensor:
    """Top-p in units of mass, int64 `[N]`: whole numbers below `x` are those below its ceiling."""
    limits = [max(1, math.ceil(each.top_p * 2.0**MASS_BITS)) if each.top_p < 1.0 else (1 << 63) - 1 for each in sampling]
    return torch.tensor(limits, dtype=torch.int64, device=device)


def _above(scaled: torch.Tensor, sampling: Sequence[SamplingParams], best: torch.Tensor) -> torch.Tensor:
    """Which scores min-p keeps: `p >= min_p * p_best`, in logarithms."""
    floors = [math.log(each.min_p) if each.min_p > 0.0 else -math.inf for each in sampling]
    return scaled >= (best + torch.tensor(floors, dtype=scaled.dtype, device=scaled.device))[:, None]


def _in_order(scaled: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best `count` of each row and their ids, `[N, count]`; how many of these are sure to be in their places, `[N]`; and a bound on
    the scores of all others, `[N]`. Of those that tie with the next one, ids outside may be lower."""
    if count >= scaled.shape[1]:
        ordered, tokens = scaled.sort(dim=-1, descending=True, stable=True)
        return ordered, tokens, torch.full((len(scaled),), scaled.shape[1], device=scaled.device), ordered[:, -1]
    best, tokens = scaled.topk(count + 1)
    tokens = tokens[:, :-1].sort(-1).values
    ordered, places = scaled.gather(1, tokens).sort(dim=-1, descending=True, stable=True)
    return ordered, tokens.gather(1, places), (ordered > best[:, -1:]).sum(-1), best[:, -1]
