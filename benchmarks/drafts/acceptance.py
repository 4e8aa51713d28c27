"""How well a draft knows the target's text: at each of its positions, where the draft ranks the target's token.

Promises: teacher-forced, with the noise and filters of the request, so that what counts is what a drafter would have ranked there.
"""

from collections.abc import Sequence
from typing import Any

from drafthouse.choose import Rows, rank
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.segment import Segment, causal
from drafthouse.sampling import SamplingParams

WIDTH = 4
DEPTHS = 8


def hits(draft: LoadedModel, prompt: Sequence[int], output: Sequence[int], sampling: SamplingParams, seed: int) -> list[int]:
    """The rank of each output token among the draft's first `WIDTH`, or -1."""
    tokens = [*prompt, *output[:-1]]
    kv = KvSequence(draft.runner.cache)
    try:
        kv.extend(len(tokens))
        segment = Segment(kv, tokens, range(len(tokens)), range(len(prompt) - 1, len(tokens)), causal(0, len(tokens)))
        logits = draft.runner.run([segment]).logits
    finally:
        kv.release()
    ranked, _ = rank(logits, [Rows(sampling, seed, range(len(prompt), len(prompt) + len(output)))], WIDTH)
    return [row.index(token) if token in row else -1 for row, token in zip(ranked, output, strict=True)]


def acceptance(texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Of the ranks in each text: shares of tokens ranked first and among the first `WIDTH`; by depth d = 1, 2, ..., over all places where
    d tokens follow, how often a chain of the first choices, or a tree of the first `WIDTH`, would have had all d."""
    ranks = [r for text in texts for r in text]
    return {
        "first": sum(r == 0 for r in ranks) / max(1, len(ranks)),
        "among_four": sum(r >= 0 for r in ranks) / max(1, len(ranks)),
        "chain_by_depth": by_depth(texts, 0),
        "tree_by_depth": by_depth(texts, WIDTH - 1),
    }


def by_depth(texts: Sequence[Sequence[int]], most: int) -> list[float]:
    """Shares of runs of 1 to `DEPTHS` tokens, as far as texts are that long, whose ranks all lie between 0 and `most`."""
    shares = []
    for depth in range(1, DEPTHS + 1):
        runs = [all(0 <= r <= most for r in text[i : i + depth]) for text in texts for i in range(len(text) - depth + 1)]
        if runs:
            shares.append(sum(runs) / len(runs))
    return shares
