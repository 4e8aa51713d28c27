"""`drafthouse bench bits`: one text whatever runs beside it, bit for bit: speculation on and off, alone and together, however it is cut.

Promises: every row of logits of every run is compared, not tokens alone: rows of one text after the same tokens must be equal in all
bits, whether they were computed for a plain token, for a node of a tree or for the last token of a prompt. Drafts are planted: below
each token lie the one that comes, three times in four, and wrong ones with children of their own, so that on any model many nodes are
rejected and many are accepted.
"""

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from benchmarks.harness.report import Report
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import FIRST_OWN, ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.noise import mix64
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.stages.build import StageMaker
from drafthouse.stages.stage import NOTHING, Children, SessionFacts, Stage
from drafthouse.token_tree import ROOT
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine
from verifier.step import Step
from verifier.verification import Verification

SAMPLINGS = (SamplingParams(temperature=0.0), SamplingParams(temperature=0.9, top_p=0.95))
PROMPTS = 60
LONGEST, LONG_EVERY, JOINED = 1_200, 10, 12
"""One prompt in ten is made of twelve, as far as the context allows."""

TOGETHER = 16
SQUEEZE_EVERY, SQUEEZED_SLOTS = 2, 4
"""Fewer slots than sequences that decode, so that the youngest is preempted."""
FREE = Curve("free", "further tokens cost next to nothing, so that trees are verified whole", 5.0, 0.001, 0.0)


@dataclass(frozen=True, slots=True)
class Text:
    """One request; `seed` is its own, and names it."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True, slots=True)
class Setting:
    """How texts are run. `squeezed` takes nearly all free KV slots away for one step in SQUEEZE_EVERY; `halved` takes half of each output
    as delivered by another engine; `cached` runs all texts twice, and counts the second time."""

    name: str
    mode: str = "auto"
    together: int = 1
    step_tokens: int = 512
    squeezed: bool = False
    halved: bool = False
    cached: bool = False


SETTINGS = (
    Setting("off, alone", mode="off"),
    Setting("on, alone"),
    Setting("off, 16 together", mode="off", together=TOGETHER),
    Setting("on, 16 together", together=TOGETHER),
    Setting("on, prompts in chunks of 40 or less", together=TOGETHER, step_tokens=40),
    Setting("on, preempted", together=TOGETHER, squeezed=True),
    Setting("on, resumed by another engine", together=TOGETHER, halved=True),
    Setting("on, prompts cached", together=TOGETHER, cached=True),
)


class Rows:
    """Digests of rows of logits, by text and the tokens before. `compared` counts rows that an earlier run computed, too."""

    def __init__(self) -> None:
        self._digests: dict[tuple[int, int, int], bytes] = {}
        self.compared = self.different = 0

    def add(self, seed: int, tokens: tuple[int, ...], row: torch.Tensor) -> None:
        digest = hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest()
        known = self._digests.setdefault((seed, len(tokens), hash(tokens)), digest)
        self.compared += known is not digest
        self.different += known != digest


class RecordedVerification(Verification):
    """Hands each row of logits to `rows`."""

    def __init__(self, rows: Rows):
        super().__init__(None)
        self.rows = rows

    def choose(self, step: Step, logits: torch.Tensor) -> np.ndarray:
        each = iter(logits)
        for place, s in enumerate(step.plan.decoding):
            tree = step.batch.trees.tree(place)
            for node in range(ROOT, len(tree)):
                self.rows.add(s.request.seed, (*s.tokens, *tree.path(node)), next(each))
        for s in step.batch.prompted:
            self.rows.add(s.request.seed, tuple(s.tokens), next(each))
        return super().choose(step, logits)


class PlantedDrafts(Stage):
    """`known` holds prompt and output by seed."""

    def __init__(self, facts: SessionFacts, known: Mapping[int, Sequence[int]]):
        super().__init__(facts)
        self.known, self.committed = known[facts.seed], 0

    def follow(self, tokens: Sequence[int]) -> None:
        self.committed += len(tokens)

    def children(self, path: Sequence[int], width: int) -> Children:
        at = self.committed + len(path)
        if at >= len(self.known):
            return NOTHING
        draw = mix64(mix64(self.facts.seed) ^ at)
        tokens = [(self.known[at] + 1 + draw % 97 + i) % self.facts.vocab_size for i in range(2)]
        if tuple(path) != tuple(self.known[self.committed : at]):
            del tokens[1:]
        elif draw % 4:
            tokens.append(self.known[at])
        return Children(tokens[-width:], [1.0] * min(width, len(tokens)))


class Squeezed(OneProcess):
    """Lets all but SQUEEZED_SLOTS of the free KV slots be held by another during one turn in SQUEEZE_EVERY."""

    _turns = 0

    def turn(self) -> list[GenerateReply]:
        held = KvSequence(self.verifier.runner.cache)
        self._turns += 1
        if self._turns % SQUEEZE_EVERY == 0:
            held.extend(max(held.cache.allocator.free_count - SQUEEZED_SLOTS, 0))
        try:
            return super().turn()
        finally:
            held.release()


@dataclass(slots=True)
class Outcome:
    """What became of the texts in one setting; outputs by seed."""

    setting: str
    outputs: dict[int, list[int]] = field(default_factory=dict)
    rows_compared: int = 0
    rows_different: int = 0
    verified: int = 0
    accepted: int = 0
    preemptions: int = 0
    cached_tokens: int = 0

    def against(self, right: "Outcome") -> dict[str, Any]:
        """As a line of the report."""
        counts = {name: getattr(self, name) for name in ("rows_compared", "rows_different", "verified", "accepted")}
        counts |= {"preemptions": self.preemptions, "cached_tokens": self.cached_tokens}
        other = sum(tokens != right.outputs[seed] for seed, tokens in self.outputs.items())
        return {"setting": self.setting, "texts": len(self.outputs), "texts_different": other} | counts


def make_texts(prompts: Sequence[Sequence[int]], count: int, longest: int) -> list[Text]:
    """Greedy and sampled in turn: pieces of the prompts, and every tenth made of several."""
    rng, texts = random.Random(0), []
    for i in range(count):
        prompt = list(prompts[i % len(prompts)])
        if i % LONG_EVERY == LONG_EVERY - 1:
            prompt = list(itertools.chain(*(prompts[(i + k) % len(prompts)] for k in range(JOINED))))[:longest]
        else:
            prompt = prompt[: rng.randint(2, min(len(prompt), longest))]
        texts.append(Text(tuple(prompt), SAMPLINGS[i % 2], i + 1))
    return texts


class Comparison:
    """Runs the same texts in one setting after the other, on one model."""

    def __init__(self, model: LoadedModel, texts: Sequence[Text], tokens: int):
        self.model, self.texts, self.tokens = model, texts, tokens
        self.rows = Rows()
        self.plain: Outcome | None = None  # the first setting's, from which drafts are planted

    def run(self, setting: Setting) -> Outcome:
        cache, before = self.model.runner.cache, (self.rows.compared, self.rows.different)
        if setting.cached:
            cache.share_prefixes()
            self._process(setting, Outcome(setting.name))
        outcome = Outcome(setting.name)
        engine = self._process(setting, outcome)
        cache.allocator.forget_prefixes()
        cache.allocator.prefixes = None
        outcome.rows_compared, outcome.rows_different = self.rows.compared - before[0], self.rows.different - before[1]
        outcome.verified, outcome.accepted = engine.totals.verified, engine.totals.accepted
        outcome.preemptions, outcome.cached_tokens = engine.scheduler.preemptions, engine.scheduler.cached_tokens
        self.plain = self.plain or outcome
        return outcome

    def _process(self, setting: Setting, outcome: Outcome) -> VerifierEngine:
        config = VerifierConfig(max_sequences=setting.together, max_queue=len(self.texts), step_tokens=setting.step_tokens)
        known = {t.seed: [*t.prompt, *self._output(t)] for t in self.texts}
        drafts = StageMaker("planted", FIRST_OWN, 16, lambda facts: PlantedDrafts(facts, known))
        engine = VerifierEngine(self.model, FREE, config, TreeConfig(), stages=(drafts,))
        engine.verification = RecordedVerification(self.rows)
        process = Squeezed(engine, []) if setting.squeezed else OneProcess(engine, [])
        requests = [self._request(text, setting) for text in self.texts]
        for some in [requests] if setting.together > 1 else [[request] for request in requests]:
            outcome.outputs |= {int(name): output for name, output in process.generate(some).items()}
        return engine

    def _output(self, text: Text) -> list[int]:
        return self.plain.outputs[text.seed] if self.plain is not None else []

    def _request(self, text: Text, setting: Setting) -> GenerateRequest:
        delivered = tuple(self._output(text)[: self.tokens // 2]) if setting.halved else ()
        return GenerateRequest(
            str(text.seed), 1, text.prompt, delivered, text.sampling, text.seed, self.tokens, (), Speculation(setting.mode)
        )  # fmt: skip


def run_bits(target: str, dtype: str, threads: int, count: int, tokens: int) -> Report:
    """Raises ConfigError naming the option, ModelError for a folder that cannot be loaded."""
    state = machine()
    prompts = encode(load_tokenizer(model_path(target)), load_texts(None, PROMPTS))
    model = load(ModelConfig(path=target, dtype=dtype, threads=threads, kv_tokens=2 * TOGETHER * LONGEST // 4, prefix_cache="off"))
    texts = make_texts(prompts, count, min(LONGEST, model.context - tokens))
    comparison, lines = Comparison(model, texts, tokens), []
    for setting in track(SETTINGS, f"{target}, {dtype}", transient=True):
        outcome = comparison.run(setting)
        assert comparison.plain is not None
        lines.append(outcome.against(comparison.plain))
    model.runner.close()
    return {
        "machine": state,
        "settings": {"target": target, "dtype": dtype, "threads": threads, "texts": count, "tokens": tokens}
        | {"forward": model.runner.forward.name, "row_invariant": model.runner.forward.row_invariant},
        "lines": lines,
        "differences": sum(line["rows_different"] + line["texts_different"] for line in lines),
    }


def print_bits(console: Console, report: Report) -> None:
    s = report["settings"]
    title = f"{s['target']}, {s['dtype']}, {s['forward']}, {s['texts']} texts of {s['tokens']} tokens; {report['differences']} differences"
    table = Table(title=title, title_justify="left")
    for heading in ("setting", "other texts", "rows compared", "different", "nodes verified", "rejected", "preempted", "cached tokens"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    for line in report["lines"]:
        rejected = f"{1 - line['accepted'] / line['verified']:.0%}" if line["verified"] else "-"
        numbers = [line[name] for name in ("texts_different", "rows_compared", "rows_different", "verified")]
        table.add_row(line["setting"], *map(str, numbers), rejected, str(line["preemptions"]), str(line["cached_tokens"]))
    console.print(table)
