"""What a session brings to a pass of the draft: committed tokens or nodes of its tree, and guesses below them.

Promises: every new token sees the committed tokens that the draft's window keeps, its own ancestors, and nothing else.
"""

from collections.abc import Sequence

from drafter.lookahead import path_to
from drafter.session import Session
from drafthouse.engine.segment import Lines, Segment, causal
from drafthouse.token_tree import TokenTree

NO_GUESSES = TokenTree()


def catch_up(session: Session, limit: int, guesses: TokenTree) -> Segment:
    """The next committed tokens without KV, at most `limit`, and the guesses below the root. Logits: of the last committed token if it
    is the root, and of all guesses."""
    first = session.cached
    tokens = session.tokens[first : min(first + limit, session.runnable)]
    count, positions = len(tokens), list(range(first, first + len(tokens)))
    outputs = [count - 1] if first + count == len(session.tokens) else []
    before = len(session.kv)
    session.kv.extend(count + len(guesses))
    sinks, skipped = session.sinks, session.skipped
    if not len(guesses):
        return Segment(session.kv, tokens, positions, outputs, causal(before, count), sinks=sinks, skipped=skipped)
    run = _guess_numbers(session, guesses)
    paths = [path_to(session.growing, guesses, node) for node in run]
    lines: list[list[int]] = [[]] * count + _lines(paths, run, before + count)
    prefix = [*causal(before, count), *[before + count] * len(run)]
    positions += [len(session.tokens) - 1 + len(path) for path in paths]
    outputs += range(count, count + len(run))
    return Segment(session.kv, tokens + guesses.tokens, positions, outputs, prefix, Lines.of(lines), sinks, skipped)


def tree_nodes(session: Session, nodes: list[int], guesses: TokenTree) -> Segment:
    """A pass over frontier nodes and the guesses below them; logits of all of them."""
    run = nodes + _guess_numbers(session, guesses)
    committed = len(session.kv) - len(session.expanded)
    session.kv.extend(len(run))
    paths = [path_to(session.growing, guesses, node) for node in run]
    lines = Lines.of(_lines(paths, session.expanded + run, committed))
    root_position = len(session.tokens) - 1
    positions = [root_position + len(path) for path in paths]
    tokens = [session.token(node, guesses) for node in run]
    prefix = [committed] * len(run)
    return Segment(session.kv, tokens, positions, range(len(run)), prefix, lines, session.sinks, session.skipped)


def _lines(paths: Sequence[Sequence[int]], nodes: Sequence[int], first: int) -> list[list[int]]:
    """The KV entries of each path. `nodes` holds all nodes of all paths; their entries follow one another from `first` on."""
    entry = {node: first + i for i, node in enumerate(nodes)}
    return [[entry[node] for node in path] for path in paths]


def _guess_numbers(session: Session, guesses: TokenTree) -> list[int]:
    """The guesses as node numbers: they go on where the numbers of the tree's nodes end."""
    return list(range(len(session.tree), len(session.tree) + len(guesses)))
