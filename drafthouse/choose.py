"""From logits to the token: the one place where sampling parameters meet noise.

Promises: a row's result depends on that row's logits, sampling parameters, seed, position and
token history alone, never on the rows beside it. Target and draft call the same functions, which
is what couples them (Gumbel-max list coupling, arXiv 2408.07978 and 2506.05632).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from drafthouse.contenders import Contenders, are_found_sooner, contenders, ranked
from drafthouse.filters import kept
from drafthouse.noise import gumbel, gumbel_of, position_keys
from drafthouse.processors.edits import Edits
from drafthouse.processors.processor import LogitsProcessor
from drafthouse.processors.sequence_processors import SequenceProcessors
from drafthouse.sampling import SamplingParams

SPARSE = 4
"""Noise is drawn for the tokens that filters leave, if they are less than one in this many: nodes of one depth share the noise of a
whole vocabulary, but not of some tokens."""


@dataclass(slots=True)
class Rows:
    """Tokens to choose for one sequence, one at each of `positions`, which are absolute. With `processors` also `paths`: the drafted
    tokens between the committed ones and each row (empty: no row has any)."""

    sampling: SamplingParams
    seed: int
    positions: Sequence[int] | np.ndarray
    paths: Sequence[Sequence[int]] = ()
    processors: LogitsProcessor | None = None

    def __len__(self) -> int:
        return len(self.positions)


def scores(logits: torch.Tensor, parts: Sequence[Rows], noise: bool = True, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Perturbed scores, float32 `[N, vocab]`, of logits `[N, vocab]`, the rows of all parts; tokens filtered out are -inf. Without
    `noise` unperturbed. With `ids`, int64 ascending, columns are those tokens instead of a whole vocabulary, and no part has processors.

    The token of a row is the argmax of its perturbed scores, ties to the lowest id.
    """
    result, counts = _processed(logits, parts), [len(part) for part in parts]
    if all(part.sampling.greedy for part in parts):
        return result
    result = result / torch.from_numpy(_temperatures(parts, counts)).to(result.device)
    filtered = np.flatnonzero(_by_row([part.sampling.filters for part in parts], counts))
    plain = np.flatnonzero(_by_row([not part.sampling.greedy and not part.sampling.filters for part in parts], counts))
    keys = _keys(parts, counts) if noise else None
    if len(filtered):
        sampling = [part.sampling for part in parts if part.sampling.filters for _ in range(len(part))]
        if len(filtered) == len(result):
            return _filter(result, sampling, keys, ids)
        at = torch.from_numpy(filtered).to(result.device)
        result[at] = _filter(result[at], sampling, keys[filtered] if keys is not None else None, ids)
    if keys is None or not len(plain):
        return result
    if len(plain) == len(result):
        return result.add_(_noise(keys, result, ids))
    result[torch.from_numpy(plain).to(result.device)] += _noise(keys[plain], result, ids)
    return result


def _processed(logits: torch.Tensor, parts: Sequence[Rows]) -> torch.Tensor:
    """Float32."""
    return logits.float() if all(part.processors is None for part in parts) else _edits(parts).applied(logits.float())


def _temperatures(parts: Sequence[Rows], counts: Sequence[int]) -> np.ndarray:
    """Of each row, `[N, 1]` float32; 1 where it is greedy."""
    return _by_row([1.0 if part.sampling.greedy else part.sampling.temperature for part in parts], counts).astype(np.float32)[:, None]


def _contenders(logits: torch.Tensor, parts: Sequence[Rows], count: int, ids: torch.Tensor | None) -> Contenders | None:
    """None where all rows are to be looked at in whole: a part is greedy or has filters, or nothing bounds a row. All on one thread: to
    wake torch's for a row, while a decoder's own still wait awake, takes longer than the row."""
    if any(part.sampling.greedy or part.sampling.filters for part in parts) or not are_found_sooner(logits):
        return None
    counts = [len(part) for part in parts]
    scaled = _processed(logits, parts).numpy() / _temperatures(parts, counts)
    return contenders(scaled, _keys(parts, counts), count, None if ids is None else ids.numpy())


def _by_row(values: Sequence[float], counts: Sequence[int]) -> np.ndarray:
    """Each part's value for each of its rows."""
    return np.repeat(np.array(values), counts)


def _filter(scaled: torch.Tensor, sampling: Sequence[SamplingParams], keys: np.ndarray | None, ids: torch.Tensor | None) -> torch.Tensor:
    """In place: what the filters drop is -inf, and with `keys` the rest has its noise."""
    at, tokens = kept(scaled, sampling)
    values = scaled[at, tokens]
    if keys is not None and len(at) * SPARSE > scaled.numel():
        values += _noise(keys, scaled, ids)[at, tokens]
    elif keys is not None:
        named = tokens if ids is None else ids[tokens]
        values += gumbel_of(torch.from_numpy(keys).to(scaled.device)[at], named[:, None])[:, 0]
    scaled.fill_(float("-inf"))
    scaled[at, tokens] = values
    return scaled


def _noise(keys: np.ndarray, like: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """Noise float32 for the columns of `like`, `[N, columns]`, drawn once for each key: the nodes of one depth of a tree share theirs."""
    each, places = np.unique(keys, return_inverse=True)
    drawn = torch.from_numpy(each).to(like.device)
    noise = gumbel(drawn, like.shape[1]) if ids is None else gumbel_of(drawn, ids[None])
    return noise[torch.from_numpy(places).to(like.device)]


def _keys(parts: Sequence[Rows], counts: Sequence[int]) -> np.ndarray:
    """int64 `[N]`."""
    seeds = np.repeat(np.array([part.seed for part in parts], dtype=np.uint64), counts)
    return position_keys(seeds, np.concatenate([np.asarray(part.positions, dtype=np.uint64) for part in parts]))


def choose(logits: torch.Tensor, parts: Sequence[Rows]) -> list[int]:
    """The token of each row of logits `[N, vocab]`."""
    tokens: list[int] = chosen(logits, parts).tolist()
    return tokens


def chosen(logits: torch.Tensor, parts: Sequence[Rows]) -> np.ndarray:
    """As `choose`, int64 `[N]`.

    A mask only takes tokens away: the best token of all, if a grammar allows it, is the best of those that it allows. So masks of
    grammars, which cost more than all else here, are made for rows alone whose best token they forbid. Filters look at all tokens
    that are left: they need the mask first.
    """
    parts, at_first = list(parts), [_without_grammar(part) for part in parts]
    found = _best(logits, at_first)
    masked, again, first = list[Rows](), list[int](), 0
    for part, quick in zip(parts, at_first, strict=True):
        if quick is not part:
            assert isinstance(part.processors, SequenceProcessors)
            assert part.processors.grammar is not None
            paths = part.paths or [()] * len(part)
            if rows := part.processors.grammar.settle(paths, found[first : first + len(part)]):
                masked.append(replace(part, positions=[part.positions[row] for row in rows], paths=[paths[row] for row in rows]))
                again += [first + row for row in rows]
        first += len(part)
    if again:
        found[again] = _best(logits[again], masked)
    return found


def _without_grammar(part: Rows) -> Rows:
    """The same part where its grammar, if there is one, has to come first."""
    processors = part.processors
    if part.sampling.filters or not isinstance(processors, SequenceProcessors) or processors.grammar is None:
        return part
    return replace(part, processors=processors.without_grammar())


def _best(logits: torch.Tensor, parts: Sequence[Rows]) -> np.ndarray:
    if (found := _contenders(logits, parts, 1, None)) is not None:
        return np.array([columns[values.argmax()] for columns, values in found])
    perturbed = scores(logits, parts)
    if perturbed.device.type == "cpu":  # numpy's argmax takes a thirteenth of the time of torch's
        return perturbed.numpy().argmax(-1)
    return perturbed.argmax(-1).cpu().numpy()


Ranked = tuple[list[list[int]], list[list[float]]]
"""Of each row tokens, best first, and their margins."""


def rank(
    logits: torch.Tensor, parts: Sequence[Rows], width: int, noise: bool = True, ids: torch.Tensor | None = None, vocab_size: int = 0
) -> Ranked:
    """The best `width` tokens of each row and their margins: the lead of each over the next one, infinite if there is none.

    Of equal scores the lower id comes first. Tokens filtered out are left out. Without `noise` ranks are those of unperturbed scores.
    With `ids`, int64 ascending, logits are those of these tokens alone, and all others of the `vocab_size` are never ranked: as if their
    logits were -inf. Processors, which know the whole vocabulary, need that size.
    """
    if ids is None:
        return _ranks(logits, parts, width, noise, None)
    nothing = list[int]()
    if any(part.processors is not None for part in parts):
        logits = _edits(parts).applied(_spread(logits.float(), ids, vocab_size))[:, ids]
        parts = [replace(part, processors=None) for part in parts]
        empty = logits.amax(-1) == float("-inf")  # what processors allow are tokens of other ids; no filter takes such a row
        logits[empty] = 0.0
        nothing = empty.nonzero()[:, 0].tolist()
    tokens, margins = _ranks(logits, parts, width, noise, ids)
    for row in nothing:
        tokens[row], margins[row] = [], []
    return tokens, margins


def _spread(logits: torch.Tensor, ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """`[N, vocab_size]`, with -inf for all but `ids`."""
    whole = logits.new_full((len(logits), vocab_size), float("-inf"))
    whole[:, ids] = logits
    return whole


def _ranks(logits: torch.Tensor, parts: Sequence[Rows], width: int, noise: bool, ids: torch.Tensor | None) -> Ranked:
    count = min(width + 1, logits.shape[1])
    found = _contenders(logits, parts, count, ids) if noise else None
    if found is None:
        return _ranked(scores(logits, parts, noise, ids), width, ids)
    tokens, margins = [], []
    for row in found:
        mine, best = ranked(row, count, None if ids is None else ids.numpy())
        tokens.append(mine[:width])
        margins.append(([upper - lower for upper, lower in pairwise(best)] + [float("inf")])[:width])
    return tokens, margins


def _ranked(perturbed: torch.Tensor, width: int, ids: torch.Tensor | None) -> Ranked:
    top = perturbed.topk(min(width + 1, perturbed.shape[1]), sorted=True)
    tokens, values = (top.indices if ids is None else ids[top.indices]).tolist(), top.values.tolist()
    found, margins = [], []
    for row, (mine, best) in enumerate(zip(tokens, values, strict=True)):
        count = sum(value > float("-inf") for value in best)
        leads = [upper - lower for upper, lower in pairwise(best[:count])] + [float("inf")]
        if 0.0 in leads:
            mine = _untied(perturbed[row], best[count - 1], ids)
        count = min(count, width)
        found.append(mine[:count])
        margins.append(leads[:count])
    return found, margins


def _untied(row: torch.Tensor, least: float, ids: torch.Tensor | None) -> list[int]:
    """Tokens of all scores from `least` on, best first, of equal ones the lower id."""
    places = (row >= least).nonzero()[:, 0]
    order = places[row[places].argsort(descending=True, stable=True)]
    tokens: list[int] = (order if ids is None else ids[order]).tolist()
    return tokens


def _edits(parts: Sequence[Rows]) -> Edits:
    edits, first = Edits(), 0
    for part in parts:
        if part.processors is not None:
            part.processors.edit(edits, first, part.paths or [()] * len(part))
        first += len(part)
    return edits
