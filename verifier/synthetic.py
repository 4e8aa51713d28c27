"""Acceptance that is drawn instead of compared, so that policy can be tested at any rate. The text is then not the target's.

Promises: after the root, and after each accepted node, the target "chooses" the first child that was
drafted there with the set probability, verified or not, and no drafted child otherwise; the draw
depends on the request's seed and the position alone.
"""

from drafthouse.noise import mix64, position_key
from drafthouse.token_tree import ROOT, TokenTree
from verifier.sequence import Sequence

SALT = 0x5EED_ACCE
"""Keeps the draw apart from the noise that chooses tokens."""


def drawn_choices(choices: list[int], tree: TokenTree, s: Sequence, rate: float, vocab_size: int) -> list[int]:
    """What stands for `choices` (after the root, then after each node of the verified `tree`).

    The drafter's own tree counts where it is known: a plain step, too, may commit what was drafted.
    """
    drafted = s.draft_session.tree if s.draft_session is not None and len(s.draft_session.tree) else tree
    result = list(choices)
    for node in range(ROOT, len(tree)):
        path = tree.path(node)
        at = drafted.find(path)
        children = [drafted.tokens[child] for child in drafted.children(at)] if at is not None else []
        if children and uniform(s.request.seed, len(s.tokens) + len(path)) < rate:
            result[node + 1] = children[0]
        elif children:
            result[node + 1] = _other(choices[node + 1], {*children, *s.request.stop_tokens}, vocab_size)
    return result


def uniform(seed: int, position: int) -> float:
    """Between 0 and 1."""
    return (mix64(position_key(seed, position) ^ SALT) >> 11) / float(1 << 53)


def _other(choice: int, taken: set[int], vocab_size: int) -> int:
    """The target's choice, or the next token that is neither drafted here nor ends the text, if there is one."""
    return next((token for i in range(vocab_size) if (token := (choice + i) % vocab_size) not in taken), choice)
