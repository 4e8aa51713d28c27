"""`drafthouse bench http`: what speculation is worth to a client of a running server, one stream at a time.

Promises: the arms `auto`, `off` and `auto again` (the A/A control) take turns on each prompt with the
same seed, so all three ask for the same text; how often they got it is reported. Seconds are the
client's, from the request to the end of the stream, gateway and network included. The text ends
where the model ends it, so rates are per token generated. Where the server has a prefix cache, prompts after the first turn on each are
cached ones: for the time that they take, start it with `prefix_cache: off` for target and draft.
"""

import pathlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness.http_stream import Completion, complete, connect, only_model, request_body
from benchmarks.harness.interleave import SAMPLINGS, Turn, turns
from benchmarks.harness.prompts import load_texts
from benchmarks.harness.report import Report, build_report
from benchmarks.harness.samples import Sample
from deployments.cli.options import machine

AUTO, CONTROL, OFF = "auto", "auto again", "off"
MODES = {AUTO: "auto", CONTROL: "auto", OFF: "off"}
RATIOS = {"auto_vs_off": (AUTO, OFF)}
WARM_UP_RUNS = 2


@dataclass(frozen=True)
class HttpOptions:
    url: str
    model: str | None
    prompts: int
    tokens: int
    rounds: int
    prompts_file: pathlib.Path | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    turn: Turn
    completion: Completion


def run_http(options: HttpOptions, console: Console) -> Report:
    """Raises ConfigError naming the option, BenchError when the server fails."""
    state = machine()
    texts = load_texts(options.prompts_file, options.prompts)
    with connect(options.url) as client:
        model = options.model or only_model(client)
        with console.status("warming up"):
            warm_up(client, model, texts, options.tokens)
        timed = measure(client, model, texts, options.tokens, options.rounds, console)
    report = http_report(timed)
    report["settings"] = {
        "url": options.url, "model": model, "prompts": options.prompts, "tokens": options.tokens, "rounds": options.rounds,
        "prompts_file": str(options.prompts_file or "held-out prompts of the package"), "machine": state,
    }  # fmt: skip
    return report


def warm_up(client: httpx.Client, model: str, prompts: Sequence[str | Sequence[int]], tokens: int) -> int:
    """Each arm a few times, untimed; returns how many requests that were."""
    bodies = [
        request_body(model, prompts[seed % len(prompts)], tokens, sampling, seed, mode)
        for mode in sorted(set(MODES.values()))
        for sampling in SAMPLINGS
        for seed in range(WARM_UP_RUNS)
    ]
    for body in bodies:
        complete(client, body)
    return len(bodies)


def measure(
    client: httpx.Client, model: str, prompts: Sequence[str | Sequence[int]], tokens: int, rounds: int, console: Console,
    observe: Callable[[Turn], None] | None = None,
) -> list[Timed]:  # fmt: skip
    """All turns, in order; `observe` is called after each, outside its time."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    plan = list(turns(list(MODES), len(prompts), rounds))
    timed: list[Timed] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(plan))
        for turn in plan:
            progress.update(task, description=f"{turn.contestant}, {turn.sampling}")
            body = request_body(model, prompts[turn.prompt], tokens, turn.sampling, turn.seed, MODES[turn.contestant])
            timed.append(Timed(turn, complete(client, body)))
            if observe is not None:
                observe(turn)
            progress.advance(task)
    return timed


def http_report(timed: Sequence[Timed]) -> Report:
    """Rates, ratios and control as in `bench offline`, and what only a server shows."""
    samples = [
        Sample(t.turn.contestant, t.turn.sampling, t.turn.prompt, t.completion.tokens, t.completion.seconds, max(1, t.completion.steps))
        for t in timed
    ]
    report = build_report(samples, list(MODES), RATIOS, (CONTROL, AUTO))
    report["time_to_first_token_ms"] = {c: {s: _first_text_ms(timed, c, s) for s in SAMPLINGS} for c in MODES}
    report["accepted_per_step"] = {c: {s: _accepted_per_step(timed, c, s) for s in SAMPLINGS} for c in MODES}
    report["same_text"] = {s: _same_text(timed, s) for s in SAMPLINGS}
    return report


def of_arm(timed: Sequence[Timed], contestant: str, sampling: str) -> list[Completion]:
    return [t.completion for t in timed if t.turn.contestant == contestant and t.turn.sampling == sampling]


def _first_text_ms(timed: Sequence[Timed], contestant: str, sampling: str) -> float:
    return 1e3 * statistics.median(c.first_text_s for c in of_arm(timed, contestant, sampling))


def _accepted_per_step(timed: Sequence[Timed], contestant: str, sampling: str) -> float:
    completions = of_arm(timed, contestant, sampling)
    return sum(c.accepted for c in completions) / max(1, sum(c.steps for c in completions))


def _same_text(timed: Sequence[Timed], sampling: str) -> dict[str, int]:
    """Of the prompts of each round: how many gave one text in all arms. In float32 a near-tie may go either way."""
    texts: dict[tuple[int, int], set[str]] = {}
    for t in timed:
        if t.turn.sampling == sampling:
            texts.setdefault((t.turn.round, t.turn.prompt), set()).add(t.completion.text)
    return {"compared": len(texts), "equal": sum(len(each) == 1 for each in texts.values())}


def notes(report: Report) -> list[str]:
    """Lines below the tables."""
    lines: list[str] = []
    for sampling in SAMPLINGS:
        first: dict[str, Any] = report["time_to_first_token_ms"]
        same = report["same_text"][sampling]
        lines.append(
            f"{sampling}: first token after {first[AUTO][sampling]:.0f} ms (off: {first[OFF][sampling]:.0f}), "
            f"{report['accepted_per_step'][AUTO][sampling]:.2f} drafts accepted per step, "
            f"{same['equal']} of {same['compared']} texts equal in all arms"
        )
    return lines
