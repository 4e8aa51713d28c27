"""`drafthouse generate`: one completion of a running server.

Promises: text goes to standard output as it comes, and nothing else does, so that it can be piped;
notes and errors go to standard error, and the trace to its file, a line for each step as it comes.
"""

import pathlib
import sys
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from deployments.cli.http_client import DEFAULT_URL, TOKEN_TIMEOUT_S, Url, events, only_model, server
from deployments.cli.options import check_writable
from deployments.cli.trace_file import TraceFile
from deployments.cli.urgency_options import FirstTokenMs, PerTokenMs, Priority, urgency_fields


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
    url: Url = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Model name; by default the server's one model.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep the most likely tokens up to this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep so many tokens; 0 keeps all.", min=0)] = 0,
    min_p: Annotated[float, typer.Option(help="Drop tokens below this share of the best one's probability.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes tokens already there less likely.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be given several times.")] = None,
    speculation: Annotated[str, typer.Option(help="auto, off, fixed or table (chain length by batch size).")] = "auto",
    nodes: Annotated[int | None, typer.Option(help="Tree nodes to wait for, with --speculation fixed.")] = None,
    depth: Annotated[int | None, typer.Option(help="Depth of the tree, with --speculation fixed.")] = None,
    width: Annotated[int | None, typer.Option(help="Children per node, with --speculation fixed; 1 is a chain.")] = None,
    priority: Priority = None,
    first_token_ms: FirstTokenMs = None,
    per_token_ms: PerTokenMs = None,
    trace: Annotated[pathlib.Path | None, typer.Option(help="File for the verification steps, for `drafthouse replay`.")] = None,
) -> None:
    """Continue PROMPT and stream the text."""
    speculate = {"mode": speculation, "nodes": nodes, "depth": depth, "width": width}
    body: dict[str, Any] = {
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stream": True,
        "stream_options": {"include_usage": True} | ({} if trace is None else {"include_trace": True}),
    }
    wish = {key: value for key, value in speculate.items() if value is not None}
    body |= urgency_fields(priority, first_token_ms, per_token_ms, wish)
    body |= {} if seed is None else {"seed": seed}
    body |= {"stop": stop} if stop else {}
    with server(url, TOKEN_TIMEOUT_S) as client:
        check_writable(trace, "--trace")
        body["model"] = model or only_model(client)
        usage = _stream(client, body, TraceFile(trace))
    if usage:
        _print_usage(usage)


def _stream(client: httpx.Client, body: dict[str, Any], trace: TraceFile) -> dict[str, Any]:
    """Writes the text as it comes, and its trace; returns the usage of the last event. Raises ConfigError."""
    usage: dict[str, Any] = {}
    for event in events(client, "/v1/completions", body):
        for choice in event.get("choices", []):
            sys.stdout.write(choice["text"])
            sys.stdout.flush()
            trace.write(choice.get("trace", []))
        usage = event.get("usage") or usage
    trace.close()
    sys.stdout.write("\n")
    return usage


def _print_usage(usage: dict[str, Any]) -> None:
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    line = f"{usage.get('prompt_tokens', 0)} prompt tokens{f', {cached} of them cached' if cached else ''}, "
    line += f"{usage.get('completion_tokens', 0)} generated"
    if speculation := usage.get("speculation"):
        steps = max(1, speculation["steps"])
        line += f" in {speculation['steps']} steps ({usage['completion_tokens'] / steps:.2f} a step); "
        line += f"drafted {speculation['drafted']}, verified {speculation['verified']}, accepted {speculation['accepted']}"
        line += "; SYNTHETIC acceptance, not the target's text" if speculation.get("synthetic") else ""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, style="dim")
