"""Acceptance that is drawn instead of compared, so that policy can be tested at any rate. The text is then not the target's.

Promises: below each node of the walk the first drafted child is accepted with the set probability and
no other child is, whatever the target chose; the draw depends on the request's seed and the position alone.
"""

from drafthouse.messages import GenerateRequest
from drafthouse.noise import mix64, position_key
from drafthouse.token_tree import ROOT, TokenTree

SALT = 0x5EED_ACCE
"""Keeps the draw apart from the noise that chooses tokens."""


def drawn_choices(
    choices: list[int], tree: TokenTree, request: GenerateRequest, position: int, rate: float, vocab_size: int
) -> list[int]:  # fmt: skip
    """`choices` (after the root, then after each node) with what the draws make of those that have children.

    `position` is that of the token after the root.
    """
    result = list(choices)
    depths = tree.depths()
    for node in range(ROOT, len(tree)):
        children = [tree.tokens[child] for child in tree.children(node)]
        if not children:
            continue
        at = position + (0 if node == ROOT else depths[node])
        if uniform(request.seed, at) < rate:
            result[node + 1] = children[0]
        else:
            result[node + 1] = _other(choices[node + 1], {*children, *request.stop_tokens}, vocab_size)
    return result


def uniform(seed: int, position: int) -> float:
    """Between 0 and 1."""
    return (mix64(position_key(seed, position) ^ SALT) >> 11) / float(1 << 53)


def _other(choice: int, taken: set[int], vocab_size: int) -> int:
    """The target's choice, or the next token that is neither drafted here nor ends the text, if there is one."""
    return next((token for i in range(vocab_size) if (token := (choice + i) % vocab_size) not in taken), choice)
