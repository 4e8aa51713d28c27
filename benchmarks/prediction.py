"""`drafthouse bench prediction`: what a predicted output is worth, where it is the answer itself with some of its tokens edited.

Promises: off, on and off again (the control) take turns on each prompt, in one process, one stream, with one set of weights; no text stops
at an end-of-text token. Every text is compared with the answer: a prediction must change none. Edits are drawn from a seed of the prompt.
The answer's own run warms up and is not timed.
"""

import copy
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.harness.interleave import order
from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from benchmarks.harness.report import Report
from benchmarks.harness.samples import Sample, pick, ratio, tokens_per_second, tokens_per_step
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.model_limits import read_limits
from drafthouse.engine.profiling import latency_of
from drafthouse.errors import ConfigError
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

OFF, ON, CONTROL = "off", "with prediction", "off again"
CONTESTANTS = (OFF, ON, CONTROL)
EDITED = 0.1
"""Share of the answer's tokens that are edited."""

KINDS = ("replaced", "replaced", "replaced", "put in", "left out")
"""Edits, in turn."""

GREEDY = "greedy"
LONGEST_PROMPT = 256


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    """As on the command line; `prompts` is their number."""

    target: str
    dtype: str
    threads: int
    prompts: int
    tokens: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Output:
    """One text, the steps that it took, and how many of the nodes that its prediction drafted were right."""

    tokens: list[int]
    steps: int
    verified: int
    accepted: int


class Stream:
    """One request at a time through an engine."""

    def __init__(self, engine: VerifierEngine):
        self._process = OneProcess(engine, [])

    def generate(self, request: GenerateRequest) -> Output:
        engine = self._process.verifier
        before, tokens = engine.totals.steps, list[int]()
        for reply in self._process.replies([request]):
            tokens += reply.tokens
        return Output(tokens, engine.totals.steps - before, reply.usage.predicted, reply.usage.predicted_accepted)


def edited(tokens: Sequence[int], seed: int, vocab_size: int) -> list[int]:
    """The tokens with `EDITED` of them replaced, left out or with another put in before them."""
    draw = random.Random(seed)
    places = draw.sample(range(len(tokens)), round(EDITED * len(tokens)))
    kinds = {place: KINDS[i % len(KINDS)] for i, place in enumerate(places)}
    result = []
    for place, token in enumerate(tokens):
        kind = kinds.get(place)
        if kind is not None and kind != "left out":
            result.append((token + draw.randrange(1, vocab_size)) % vocab_size)
        if kind in (None, "put in"):
            result.append(token)
    return result


class Comparison:
    """Off and on, on one model: engines of their own, so that neither learns from the other's steps."""

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        latency = latency_of(model, VerifierConfig().step_tokens)
        self.options, self.vocab_size = options, model.runner.vocab_size
        self._off, self._on = (Stream(VerifierEngine(model, copy.deepcopy(latency), VerifierConfig(), TreeConfig())) for _ in range(2))
        self.samples: list[Sample] = []
        self.predicted: list[Output] = []
        self.different = 0

    def run(self, prompt: int, ids: Sequence[int]) -> None:
        """All rounds of one prompt, `ids`."""
        tokens, greedy = self.options.tokens, SamplingParams(temperature=0.0)
        plain = GenerateRequest(f"{prompt}", 1, tuple(ids), (), greedy, 0, tokens, (), Speculation("off"))
        answer = self._off.generate(plain).tokens
        expected = tuple(edited(answer, prompt, self.vocab_size))
        asked = replace(plain, speculation=Speculation("auto"), prediction=expected)
        for round_ in range(self.options.rounds):
            for name in order(CONTESTANTS, prompt * self.options.rounds + round_):
                started = time.perf_counter()
                output = self._on.generate(asked) if name == ON else self._off.generate(plain)
                seconds = time.perf_counter() - started
                self.samples.append(Sample(name, GREEDY, prompt, tokens, seconds, output.steps))
                self.different += output.tokens != answer
                if name == ON:
                    self.predicted.append(output)

    def report(self) -> Report:
        runs = {name: pick(self.samples, name, GREEDY) for name in CONTESTANTS}
        accepted, verified = (sum(getattr(output, name) for output in self.predicted) for name in ("accepted", "verified"))
        return {
            "tokens_per_second": {name: tokens_per_second(some) for name, some in runs.items()},
            "tokens_per_step": {name: tokens_per_step(some) for name, some in runs.items()},
            "ratio": asdict(ratio(runs[ON], [*runs[OFF], *runs[CONTROL]])),
            "control": asdict(ratio(runs[CONTROL], runs[OFF])),
            "prediction_tokens": {"accepted": accepted, "rejected": verified - accepted},
            "texts": len(self.samples),
            "texts_different": self.different,
        }


def run_prediction(options: PredictionOptions) -> Report:
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded."""
    state, path = machine(), model_path(options.target)
    prompts = encode(load_tokenizer(path), load_texts(None, options.prompts), LONGEST_PROMPT)
    longest, context = max(map(len, prompts)) + options.tokens, read_limits(options.target).context_tokens
    if longest > context:
        raise ConfigError(f"--tokens {options.tokens}: with the longest prompt it makes {longest}, and the context is {context}")
    slots = longest + TreeConfig().max_nodes
    settings = {"path": options.target, "dtype": options.dtype, "threads": options.threads, "kv_tokens": slots, "prefix_cache": "off"}
    model = load(ModelConfig.model_validate(settings))
    comparison = Comparison(model, options)
    for prompt, ids in enumerate(track(prompts, f"{options.target}, {options.dtype}", transient=True)):
        comparison.run(prompt, ids)
    model.runner.close()
    return {"machine": state, "settings": asdict(options) | {"edited": EDITED, "forward": model.forward}} | comparison.report()


def print_prediction(console: Console, report: Report) -> None:
    s = report["settings"]
    title = f"{s['target']}, {s['dtype']}, {s['threads']} threads, {s['prompts']} prompts x {s['tokens']} tokens x {s['rounds']} rounds"
    table = Table(title=title, title_justify="left")
    for heading in ("prediction", "tokens/s", "tokens/step"):
        table.add_column(heading, justify="left" if heading == "prediction" else "right")
    for name in CONTESTANTS:
        table.add_row(name, f"{report['tokens_per_second'][name]:.1f}", f"{report['tokens_per_step'][name]:.2f}")
    console.print(table)
    for name, what in (("ratio", f"{ON} to off"), ("control", f"{CONTROL} to off")):
        found = report[name]
        console.print(f"{what}: {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}], 95 % over prompts", highlight=False)
    tokens, other = report["prediction_tokens"], report["texts_different"]
    console.print(f"prediction tokens: {tokens['accepted']} accepted, {tokens['rejected']} rejected", highlight=False)
    console.print("all texts are equal" if not other else f"[bold]{other} of {report['texts']} texts differ[/]", highlight=False)
