"""What a session brings to a pass of the draft: committed tokens or nodes of its tree, and guesses below them.

Promises: every new token sees the committed tokens that the draft's window keeps, its own ancestors, and nothing else.
"""

from collections.abc import Sequence

import numpy as np

from drafter.lookahead import path_to
from drafter.session import Session
from drafthouse.engine.segment import Segment
from drafthouse.token_tree import TokenTree

NO_GUESSES = TokenTree()


def catch_up(session: Session, limit: int, guesses: TokenTree) -> Segment:
    """The next committed tokens without KV, at most `limit`; logits of the last one if it is the root, and of the guesses below it."""
    first = session.cached
    tokens = session.tokens[first : first + limit]
    count, positions = len(tokens), list(range(first, first + len(tokens)))
    outputs = [count - 1] if first + count == len(session.tokens) else []
    session.kv.extend(count + len(guesses))
    sinks, skipped = session.sinks, session.skipped
    if not len(guesses):
        return Segment(session.kv, tokens, positions, outputs, sinks=sinks, skipped=skipped)
    run = _numbers(session, guesses)
    paths = [path_to(session.growing, guesses, node) for node in run]
    mask = np.zeros((count + len(run), count + len(run)), dtype=bool)
    mask[:count, :count] = np.tri(count, dtype=bool)
    mask[count:, :count] = True
    mask[count:, count:] = _ancestors(paths, run)
    positions += [len(session.tokens) - 1 + len(path) for path in paths]
    outputs += range(count, count + len(run))
    return Segment(session.kv, tokens + guesses.tokens, positions, outputs, mask, positions, sinks, skipped)


def tree_nodes(session: Session, nodes: list[int], guesses: TokenTree) -> Segment:
    """A pass over frontier nodes and the guesses below them; logits of all of them."""
    run = nodes + _numbers(session, guesses)
    session.kv.extend(len(run))
    tail = session.expanded + run
    paths = [path_to(session.growing, guesses, node) for node in run]
    mask = _ancestors(paths, tail)
    root_position = len(session.tokens) - 1
    positions = [root_position + len(path) for path in paths]
    tail_positions = [root_position + session.growing.depths[node] for node in session.expanded] + positions
    tokens = [session.token(node, guesses) for node in run]
    return Segment(session.kv, tokens, positions, range(len(run)), mask, tail_positions, session.sinks, session.skipped)


def _ancestors(paths: Sequence[Sequence[int]], tail: Sequence[int]) -> np.ndarray:
    """bool `[paths, tail]`: which entries of the tail lie on each path, all of whose nodes are among them."""
    column = {node: i for i, node in enumerate(tail)}
    mask = np.zeros((len(paths), len(tail)), dtype=bool)
    for row, path in zip(mask, paths, strict=True):
        row[[column[node] for node in path]] = True
    return mask


def _numbers(session: Session, guesses: TokenTree) -> list[int]:
    """Guesses are numbered on from the tree's nodes."""
    return list(range(len(session.tree), len(session.tree) + len(guesses)))
