"""`drafthouse bench paced`: one stream through the full stack, at the proportions of a large target and a small draft.

Everything is real (Ray cluster, Serve application, HTTP, data plane, tokens) but the time of a model's
pass, which comes from a curve: see `drafthouse/engine/curves/README.md`. Promises: the report is
labelled 'paced'; a run in which more than 1 % of a pool's passes took the CPU longer than the curve
allows is void, and says so.

Seconds are as measured, on an axis stretched by `time_scale`; `tokens_per_second` is measured too, and
times `time_scale` it is that of the curves' hardware. Overheads are this machine's, not stretched.
"""

import pathlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.http_stream import connect
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.harness.overruns import is_void, print_overruns
from benchmarks.harness.paced_server import PacedPair, PacedServer, Sections, Totals, cluster, difference
from benchmarks.harness.prompts import encode, encode_chats, load_texts, load_tokenizer
from benchmarks.harness.report import Report
from benchmarks.harness.slow_network import slow_network
from benchmarks.http import AUTO, CONTROL, OFF, Timed, http_report, measure, notes, of_arm, warm_up
from deployments.cli.options import machine
from deployments.cli.ray_environment import free_port
from drafthouse.checkpoints.model_path import model_path
from drafthouse.engine.curve_files import load_curve
from drafthouse.policy.latency import Curve


@dataclass(frozen=True)
class PacedOptions:
    pair: PacedPair
    prompts: int
    prompt_tokens: int
    tokens: int
    rounds: int
    prompts_file: pathlib.Path | None = None
    network_ms: float = 0.0


@dataclass
class Meter:
    """What the pools counted, by arm and pool; `observe` after each request."""

    server: PacedServer
    finished: int
    arms: dict[tuple[str, str], dict[str, Totals]] = field(default_factory=dict)
    _before: dict[str, Totals] = field(default_factory=dict)

    def start(self) -> None:
        self._before = self.server.totals(self.finished)

    def observe(self, turn: Turn) -> None:
        self.finished += 1
        after = self.server.totals(self.finished)
        arm = self.arms.setdefault((turn.contestant, turn.sampling), {"verifier": {}, "drafter": {}})
        for role, totals in arm.items():
            for name, value in difference(after[role], self._before[role]).items():
                totals[name] = totals.get(name, 0.0) + value
        self._before = after


def run_paced(options: PacedOptions, console: Console) -> Report:
    """Raises ConfigError naming the option, BenchError when the server cannot be started or fails."""
    state = machine()
    curve = load_curve(options.pair.target_curve)
    draft_curve = load_curve(options.pair.draft_curve)
    tokenizer = load_tokenizer(model_path(options.pair.target))
    texts = load_texts(options.prompts_file, options.prompts)
    prompts = encode_chats(tokenizer, texts) if options.pair.chats else encode(tokenizer, texts, options.prompt_tokens)
    with _drafter_away(options) as sections:
        server = PacedServer(options.pair, sections)
        with console.status("starting Ray and the Serve application"):
            server.start()
        with closing(server):
            meter, timed = _measured(options, server, prompts, console)
            round_trip_ms = _round_trip_ms(cluster(server.url))
    report = {"paced": True, **http_report(timed), **paced_report(meter.arms, timed, curve, options.pair.time_scale)}
    report["round_trip_ms"] = round_trip_ms
    report["settings"] = {
        **asdict(options.pair), "curves": {"target": asdict(curve), "draft": asdict(draft_curve)}, "prompts": options.prompts,
        "prompt_tokens": options.prompt_tokens, "tokens": options.tokens, "rounds": options.rounds, "network_ms": options.network_ms,
        "machine": state,
    }  # fmt: skip
    return report


@contextmanager
def _drafter_away(options: PacedOptions) -> Iterator[Sections]:
    """Inside, the drafter is `network_ms` away, stretched like all times; yields what its configuration needs for that."""
    if not options.network_ms:
        yield {}
        return
    port = free_port()
    with slow_network(port, options.network_ms / 1e3 * options.pair.time_scale, "--network-ms"):
        yield {"drafter": {"port": port}}


def _measured(options: PacedOptions, server: PacedServer, prompts: Sequence[Sequence[int]], console: Console) -> tuple[Meter, list[Timed]]:
    with connect(server.url, trust_env=False) as client:
        with console.status("warming up"):
            meter = Meter(server, warm_up(client, "paced", prompts, options.tokens))
            meter.start()
        return meter, measure(client, "paced", prompts, options.tokens, options.rounds, console, meter.observe)


def _round_trip_ms(state: dict[str, Any]) -> float:
    """As the verifier measures it to its drafter."""
    gauges = next(iter(state["pools"]["verifier"]))["gauges"]
    return 1e3 * max(value for name, value in gauges.items() if name.startswith("round_trip_seconds."))


def paced_report(arms: dict[tuple[str, str], dict[str, Totals]], timed: Sequence[Timed], curve: Curve, time_scale: float) -> Report:
    """Speed-up, hidden draft time, overheads and overruns."""

    def by(arm: str, number: Any) -> dict[str, float]:
        return {s: number(arms[arm, s]) for s in SAMPLINGS}

    overruns = {role: _overruns(arms, role) for role in ("verifier", "drafter")}
    return {
        "speed_up": {s: _decode_rate(timed, AUTO, s) / _decode_rate(timed, OFF, s) for s in SAMPLINGS},
        "speed_up_control": {s: _decode_rate(timed, CONTROL, s) / _decode_rate(timed, AUTO, s) for s in SAMPLINGS},
        "draft_time_hidden": by(AUTO, _hidden),
        "overhead_ms_per_step": {arm: by(arm, _overhead_ms) for arm in (AUTO, OFF)},
        "between_steps_ms": {arm: by(arm, lambda t: 1e3 * t["verifier"]["wait_seconds"] / t["verifier"]["steps"]) for arm in (AUTO, OFF)},
        "runner_beyond_curve_ms": {arm: by(arm, lambda t: _beyond_curve_ms(t["verifier"], curve, time_scale)) for arm in (AUTO, OFF)},
        "verified_per_step": {arm: by(arm, lambda t: t["verifier"]["verified"] / t["verifier"]["steps"]) for arm in (AUTO, OFF)},
        "overruns": overruns,
        "void": is_void(overruns),
    }


def _decode_rate(timed: Sequence[Timed], arm: str, sampling: str) -> float:
    """Tokens per second after the first text: prompts go in smaller chunks here than a real target would take."""
    completions = of_arm(timed, arm, sampling)
    return sum(c.tokens for c in completions) / sum(c.decode_seconds for c in completions)


def _hidden(totals: dict[str, Totals]) -> float:
    """Share of the drafter's pass time during which the verifier did not wait, at least: the verifier's whole time between
    steps counts as waiting for drafts, though some of it is its own."""
    drafting = totals["drafter"]["pass_seconds"]
    return max(0.0, 1.0 - totals["verifier"]["wait_seconds"] / drafting) if drafting else 0.0


def _overhead_ms(totals: dict[str, Totals]) -> float:
    """Wall time of a step that is not the runner's: scheduling, selection, choosing, walking, committing."""
    verifier = totals["verifier"]
    return 1e3 * (verifier["step_seconds"] - verifier["run_seconds"]) / verifier["steps"]


def _beyond_curve_ms(verifier: Totals, curve: Curve, time_scale: float) -> float:
    """What the paced runner took longer than its curve, late wake-ups and overruns; KV's share of the curve, some hundredths
    of a millisecond, is not counted as the curve's."""
    tokens = verifier["committed"] - verifier["accepted"] + verifier["verified"] + verifier["prompt_tokens"]
    paced = time_scale * (curve.base_ms * verifier["steps"] + curve.per_token_ms * tokens)
    return (1e3 * verifier["run_seconds"] - paced) / verifier["steps"]


def _overruns(arms: dict[tuple[str, str], dict[str, Totals]], role: str) -> float:
    """Share of the pool's passes that took the CPU longer than the curve allows."""
    steps = sum(arm[role].get("paced_steps", 0.0) for arm in arms.values())
    return sum(arm[role].get("paced_overruns", 0.0) for arm in arms.values()) / steps if steps else 0.0


def print_paced(console: Console, report: Report) -> None:
    settings = report["settings"]
    away = f", drafter {settings['network_ms']:g} ms away" if settings["network_ms"] else ""
    title = f"paced: {settings['target_curve']} with {settings['draft_curve']}{away}, time stretched by {settings['time_scale']:g}"
    table = Table(title=title, title_justify="left")
    table.add_column("one stream, full stack")
    for sampling in SAMPLINGS:
        table.add_column(sampling, justify="right")
    rows: list[tuple[str, dict[str, float], str]] = [
        ("speed-up over off, decoding", report["speed_up"], "{:.2f}"),
        ("A/A control of it", report["speed_up_control"], "{:.2f}"),
        ("tokens per step", report["tokens_per_step"][AUTO], "{:.2f}"),
        ("nodes verified per step", report["verified_per_step"][AUTO], "{:.1f}"),
        ("draft time hidden, at least", report["draft_time_hidden"], "{:.0%}"),
        ("overhead in a step, ms", report["overhead_ms_per_step"][AUTO], "{:.2f}"),
        ("same, off, ms", report["overhead_ms_per_step"][OFF], "{:.2f}"),
        ("between steps, ms", report["between_steps_ms"][AUTO], "{:.2f}"),
        ("same, off, ms", report["between_steps_ms"][OFF], "{:.2f}"),
        ("runner beyond the curve, ms", report["runner_beyond_curve_ms"][AUTO], "{:.2f}"),
    ]
    for name, values, form in rows:
        table.add_row(name, *(form.format(values[s]) for s in SAMPLINGS))
    console.print(table)
    console.print(f"round trip from verifier to drafter: {report['round_trip_ms']:.1f} ms")
    for line in notes(report):
        console.print(line)
    print_overruns(console, report)
