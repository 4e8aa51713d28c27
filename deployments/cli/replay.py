"""`drafthouse replay`: the steps of a trace file as lines to read."""

import json
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.options import errors
from deployments.cli.trace_file import read_steps
from drafthouse.token_tree import ROOT

if TYPE_CHECKING:
    from deployments.api.trace_form import TraceOfStep

SHOWN_CHARS = 60
"""Of the text before a step."""

ACCEPTED, VERIFIED, DRAFTED = "*", "+", "."


def replay(
    file: Annotated[pathlib.Path, typer.Argument(help="Trace file, as `drafthouse generate --trace FILE` writes it.")],
    nodes: Annotated[int, typer.Option(help="Nodes of a tree to print at most; the rest is counted.", min=0)] = 32,
) -> None:
    """Print the verification steps of FILE: the text so far, the drafted tree, and what was accepted of it."""
    with errors():
        text, done = "", 0
        typer.echo(f"{ACCEPTED} accepted, {VERIFIED} verified, {DRAFTED} drafted; behind each token its confidence and source")
        for step in read_steps(file):
            if step.first_token_index > done:
                text += f"[{step.first_token_index - done} tokens without a trace]"
            typer.echo("\n".join(step_lines(step, text, nodes)))
            text += "".join(token.text for token in step.tokens)
            done = step.first_token_index + len(step.tokens)


def step_lines(step: "TraceOfStep", text: str, most: int) -> list[str]:
    """`text` is what came before it; at most `most` nodes are shown."""
    times = step.timings
    numbers = f"waited {_ms(times.wait_s)}, device {_ms(times.device_s)}, step {_ms(times.step_s)}, price {step.price:.3g}"
    verified = sum(node.verified for node in step.nodes)
    counts = f"drafted {len(step.nodes) + step.nodes_left_out}, verified {verified}, accepted {len(step.accepted)}"
    lines = [f"step {step.step} of attempt {step.attempt}, output token {step.first_token_index}: {counts}; {numbers}"]
    lines.append(f"  text {_quoted(text[-SHOWN_CHARS:])}")
    lines += _tree_lines(step, most)
    lines.append("  new  " + " ".join(f"{_quoted(token.text)} ({token.source})" for token in step.tokens))
    return lines


def _tree_lines(step: "TraceOfStep", most: int) -> list[str]:
    """Children below their parents, the accepted and then the most confident first."""
    children: dict[int, list[int]] = {}
    for i, node in enumerate(step.nodes):
        children.setdefault(node.parent, []).append(i)
    accepted, lines = set(step.accepted), list[str]()

    def rank(i: int) -> tuple[bool, bool, float]:
        return i not in accepted, not step.nodes[i].verified, -step.nodes[i].confidence

    left = [(i, 0) for i in sorted(children.get(ROOT, []), key=rank, reverse=True)]
    while left and len(lines) < most:
        i, depth = left.pop()
        node = step.nodes[i]
        mark = ACCEPTED if i in accepted else VERIFIED if node.verified else DRAFTED
        lines.append(f"  {'  ' * depth}{mark} {_quoted(node.text)} {node.confidence:.2f} {node.source}")
        left += [(child, depth + 1) for child in sorted(children.get(i, []), key=rank, reverse=True)]
    hidden = len(step.nodes) + step.nodes_left_out - len(lines)
    return lines + ([f"  ... and {hidden} more"] if hidden else [])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
