"""`drafthouse generate` and `drafthouse status`: clients of a running server's HTTP API.

Promises: text goes to standard output as it comes, and nothing else does, so that it can be piped;
notes and errors go to standard error; an error is one line, with exit status 1.
"""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.table import Table

from drafthouse.errors import ConfigError
from drafthouse.security.client_key import HINT, authorization
from drafthouse.wire.membership import SYNTHETIC_GAUGE

DEFAULT_URL = "http://127.0.0.1:8000"
REPLICA_COLUMNS = ("replica", "pid", "address", "load", "capacity", "draining")
Url = Annotated[str, typer.Option(help="Where the server's HTTP API is.", envvar="DRAFTHOUSE_URL")]


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
        "stream_options": {"include_usage": True},
        "speculation": {key: value for key, value in speculate.items() if value is not None},
    }
    body |= {} if seed is None else {"seed": seed}
    body |= {"stop": stop} if stop else {}
    try:
        with httpx.Client(base_url=url, headers=_headers(), timeout=httpx.Timeout(10.0, read=300.0)) as client:
            body["model"] = model or _only_model(client)
            usage = _stream(client, body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        _unreachable(url, error)
    if usage:
        _print_usage(usage)


def _headers() -> dict[str, str]:
    try:
        return authorization()
    except ConfigError as error:
        _fail(str(error))


def _only_model(client: httpx.Client) -> str:
    answer = client.get("/v1/models")
    _check(answer)
    return str(answer.json()["data"][0]["id"])


def _stream(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Writes the text as it comes; returns the usage of the last event."""
    usage: dict[str, Any] = {}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
        _check(answer)
        for event in _events(answer.iter_lines()):
            if "error" in event:
                _fail(str(event["error"].get("message", event["error"])))
            for choice in event.get("choices", []):
                sys.stdout.write(choice["text"])
                sys.stdout.flush()
            usage = event.get("usage") or usage
    sys.stdout.write("\n")
    return usage


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to [DONE]."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


def _print_usage(usage: dict[str, Any]) -> None:
    line = f"{usage.get('prompt_tokens', 0)} prompt tokens, {usage.get('completion_tokens', 0)} generated"
    if speculation := usage.get("speculation"):
        steps = max(1, speculation["steps"])
        line += f" in {speculation['steps']} steps ({usage['completion_tokens'] / steps:.2f} a step); "
        line += f"drafted {speculation['drafted']}, verified {speculation['verified']}, accepted {speculation['accepted']}"
        line += "; SYNTHETIC acceptance, not the target's text" if speculation.get("synthetic") else ""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, style="dim")


def status(
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's JSON as it is.")] = False,
) -> None:
    """Show the pools, their replicas, and totals."""
    try:
        answer = httpx.get(f"{url}/v1/cluster", headers=_headers(), timeout=10.0)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        _unreachable(url, error)
    _check(answer)
    if as_json:
        sys.stdout.write(json.dumps(answer.json(), indent=2) + "\n")
    else:
        _print_cluster(answer.json())


def _print_cluster(cluster: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for pool, replicas in cluster["pools"].items():
        table = Table(title=f"{pool}: {len(replicas)}", title_justify="left", title_style="bold")
        for column in REPLICA_COLUMNS:
            table.add_column(column, overflow="fold")
        for replica in replicas:
            table.add_row(*(str(replica.get(column, "")) for column in REPLICA_COLUMNS))
        console.print(table)
    rates = [r["gauges"][SYNTHETIC_GAUGE] for r in cluster["pools"].get("verifier", []) if SYNTHETIC_GAUGE in r.get("gauges", {})]
    if rates:
        console.print(f"SYNTHETIC ACCEPTANCE at rate {min(rates):g}: texts are not the target's", style="bold red")
    for pool, totals in cluster.get("totals", {}).items():
        counters = (f"{name} {number:,.10g}" for name, number in totals.items())
        console.print(f"[bold]{pool}, all together[/]: {', '.join(counters)}")
    console.print(f"[bold]sessions[/]: {cluster.get('sessions', 0)}")
    for pool, size in cluster["sizes"].items():
        bounds = "" if size["most"] is None else f", between {size['least']} and {size['most']}"
        console.print(f"[bold]{pool} pool[/]: {size['actual']} of {size['desired']} desired{bounds}; {size['reason']}")
    _print_goodput(console, cluster["goodput"])


def _print_goodput(console: Console, goodput: dict[str, Any]) -> None:
    def number(name: str, form: str = ",.1f") -> str:
        return "-" if goodput[name] is None else format(goodput[name], form)

    lines = {
        "goodput": f"{number('committed_per_s')} tokens/s; one more verifier would add {number('one_more_verifier_per_s')}, "
        f"one more drafter {number('one_more_drafter_per_s')}",
        "drafts a second": f"{number('drafted_per_s')} drafted, {number('verified_per_s')} verified, {number('accepted_per_s')} accepted, "
        f"{number('wasted_per_s')} wasted; {number('refused_sessions_per_s')} sessions refused",
        "measured over predicted": f"tokens {number('tokens_over_predicted', '.2f')}, seconds {number('seconds_over_predicted', '.2f')}",
        "price of a node": f"{number('price_median', '.3f')} tokens ({number('price_lowest', '.3f')} to {number('price_highest', '.3f')}), "
        f"floor {number('price_floor', '.3f')}",
        "in use": f"verifiers {number('verifier_utilisation', '.0%')} (waiting for drafts {number('waiting_share', '.0%')}), "
        f"drafters {number('drafter_utilisation', '.0%')}; {goodput['queue']} requests queue",
    }
    for name, line in lines.items():
        console.print(f"[bold]{name}[/]: {line}")


def _check(answer: httpx.Response) -> None:
    if answer.status_code == 200:
        return
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:500]
    if answer.status_code == 401:
        message += f"; {HINT}"
    _fail(f"{answer.status_code} from {answer.request.url}: {message}")


def _unreachable(url: str, error: Exception) -> NoReturn:
    _fail(f"no server answers at {url} ({error}); start one with `drafthouse serve`, or name another with --url")


def _fail(message: str) -> NoReturn:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    raise typer.Exit(1)
