"""`drafthouse bench json`: whether answers fit their schemas, what share of their tokens is forced, and what a token costs.

Promises: each round runs every schema three times on one engine: constrained, free, and constrained again. All have the same prompts and
the same lengths, and prompts come out of the prefix cache, so that decoding is timed and little else. The two constrained runs of a round
are the control: their texts are equal, and so should their times be. Speculation is what a server without a drafter has.
"""

import json
import pathlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.harness.report import Report
from deployments.cli.options import machine
from deployments.gateway.model_metadata import load_metadata
from deployments.gateway.text_codec import load_codec
from drafthouse.config.serving import ModelConfig, ServingConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.profiling import latency_of
from drafthouse.sampling import Grammar, SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.stages.build import placed
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

SCHEMAS = pathlib.Path(__file__).with_name("schemas.json")
SAMPLINGS = (SamplingParams(temperature=0.0), SamplingParams(temperature=0.9, top_p=0.95))
INSTRUCTION = "Answer with JSON that fits this schema: {schema}\n\n{task}"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    schema: dict[str, Any]
    prompt: tuple[int, ...]


@dataclass(slots=True)
class Run:
    """Of some requests together. `ended`: by themselves."""

    seconds: float = 0.0
    outputs: dict[str, list[int]] = field(default_factory=dict)
    ended: dict[str, bool] = field(default_factory=dict)
    forced: int = 0
    steps: int = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.outputs.values()))

    @property
    def ms_per_token(self) -> float:
        return 1e3 * self.seconds / self.tokens


@dataclass(slots=True)
class Counts:
    """Of all rounds at one number of streams; `faults` are answers that do not fit."""

    rounds: list[tuple[Run, Run, Run]] = field(default_factory=list)
    unfinished: int = 0
    valid: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self, streams: int) -> dict[str, Any]:
        constrained = [run for first, _, again in self.rounds for run in (first, again)]
        free = [run for _, run, _ in self.rounds]
        ratios = [(first.seconds + again.seconds) / 2 / run.seconds for first, run, again in self.rounds]
        tokens = sum(run.tokens for run in constrained)
        return {
            "streams": streams, "generations": sum(len(first.outputs) for first, _, _ in self.rounds),
            "valid": self.valid, "unfinished": self.unfinished, "faults": self.faults,
            "forced_share": sum(run.forced for run in constrained) / tokens,
            "constrained_ms": statistics.median(run.ms_per_token for run in constrained),
            "free_ms": statistics.median(run.ms_per_token for run in free),
            "ratio": statistics.median(ratios), "ratio_worst_round": max(ratios),
            "control": statistics.median(again.seconds / first.seconds for first, _, again in self.rounds),
            "tokens_per_step": tokens / sum(run.steps for run in constrained),
            "free_tokens_per_step": sum(run.tokens for run in free) / sum(run.steps for run in free),
        }  # fmt: skip


class Comparison:
    def __init__(self, model: LoadedModel, cases: Sequence[Case], stops: tuple[int, ...], tokens: int, streams: int):
        self.cases, self.stops, self.tokens = cases, stops, tokens
        served = ServingConfig()
        config = VerifierConfig(max_sequences=streams, max_queue=4 * len(cases))
        latency = latency_of(model, config.step_tokens)
        stages = placed(served.drafter.stages, "verifier", None, model.runner.vocab_size)
        self.engine = VerifierEngine(model, latency, config, served.tree, stages=stages)
        self.process = OneProcess(self.engine, [])
        self.process.generate([replace(self._request(case, 0), max_tokens=1) for case in cases])

    def round(self, number: int) -> tuple[Run, Run, Run]:
        asked = [self._request(case, number) for case in self.cases]
        first = self._run(asked)
        lengths = {name: len(tokens) for name, tokens in first.outputs.items()}
        free = [
            replace(r, sampling=replace(r.sampling, grammar=None), stop_tokens=(), max_tokens=lengths[r.request_id]) for r in asked
        ]  # fmt: skip
        return first, self._run(free), self._run(asked)

    def _request(self, case: Case, number: int) -> GenerateRequest:
        sampling = replace(SAMPLINGS[number % len(SAMPLINGS)], grammar=Grammar("json_schema", json.dumps(case.schema)))
        return GenerateRequest(case.name, 1, case.prompt, (), sampling, number, self.tokens, self.stops, Speculation("auto"))

    def _run(self, requests: Sequence[GenerateRequest]) -> Run:
        run, before = Run(), self.engine.totals.forced
        started = time.perf_counter()
        run.outputs = {request.request_id: [] for request in requests}
        for reply in self.process.replies(requests):
            run.outputs[reply.request_id] += reply.tokens
            if reply.finish_reason:
                run.ended[reply.request_id] = reply.finish_reason == "stop"
                run.steps += reply.usage.steps
        run.seconds, run.forced = time.perf_counter() - started, self.engine.totals.forced - before
        return run


def fault_of(text: str, schema: dict[str, Any]) -> str:
    """Empty: it fits."""
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{str(error).splitlines()[0]}: {text[:200]}"
    return ""


def run_json(target: str, dtype: str, threads: int, generations: int, tokens: int, streams: Sequence[int], schemas: pathlib.Path) -> Report:
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded."""
    config = ModelConfig(path=target, dtype=dtype, threads=threads, kv_tokens=32_768, prefix_cache="auto")
    codec, state = load_codec(config), machine()
    metadata = load_metadata(config, codec.stop_token)
    cases = []
    for each in json.loads(schemas.read_text()):
        text = INSTRUCTION.format(schema=json.dumps(each["schema"]), task=each["task"])
        cases.append(Case(each["name"], each["schema"], tuple(codec.encode_chat([{"role": "user", "content": text}]))))
    model, lines = load(config), []
    for count in streams:
        comparison, counts = Comparison(model, cases, metadata.stop_tokens, tokens, count), Counts()
        for number in track(range(max(1, generations // len(cases))), f"{target}, {count} streams", transient=True):
            counts.rounds.append(comparison.round(number))
            _judge(counts, cases, codec.text_of)
        lines.append(counts.line(count))
    model.runner.close()
    settings = {"target": target, "dtype": dtype, "threads": threads, "tokens": tokens, "schemas": len(cases)}
    return {"machine": state, "settings": settings, "lines": lines, "faults": sum(len(line["faults"]) for line in lines)}


def _judge(counts: Counts, cases: Sequence[Case], text_of: Any) -> None:
    """Of the last round. The two constrained runs must have the same texts."""
    first, _, again = counts.rounds[-1]
    for case in cases:
        if first.outputs[case.name] != again.outputs[case.name]:
            counts.faults.append(f"{case.name}: another text the second time")
        if not first.ended[case.name]:
            counts.unfinished += 1
        elif fault := fault_of(text_of(first.outputs[case.name]), case.schema):
            counts.faults.append(f"{case.name}: {fault}")
        else:
            counts.valid += 1


def print_json(console: Console, report: Report) -> None:
    s = report["settings"]
    table = Table(title=f"{s['target']}, {s['dtype']}, {s['schemas']} schemas, at most {s['tokens']} tokens", title_justify="left")
    counts, times = ("streams", "answers", "valid", "unfinished", "faults", "forced"), ("ms/token", "free", "ratio", "control")
    for heading in (*counts, *times, "tokens/step", "free"):
        table.add_column(heading, justify="right")
    for line in report["lines"]:
        table.add_row(
            str(line["streams"]), str(line["generations"]), str(line["valid"]), str(line["unfinished"]), str(len(line["faults"])),
            f"{line['forced_share']:.0%}", f"{line['constrained_ms']:.2f}", f"{line['free_ms']:.2f}", f"{line['ratio']:.3f}",
            f"{line['control']:.3f}", f"{line['tokens_per_step']:.2f}", f"{line['free_tokens_per_step']:.2f}",
        )  # fmt: skip
    console.print(table)
    for fault in [fault for line in report["lines"] for fault in line["faults"]][:10]:
        console.print(fault, highlight=False)
