"""What a verification step costs in Python: the real engine, on a device that has its logits ready at once.

Promises: every sequence decodes, gets a tree of the same shape before each step, as from a drafter, and all nodes are verified; how many
are accepted is known beforehand and checked. Kinds take turns, some steps each; the first of them is there twice, as the A/A control.
The engine's clock goes on by what the device would have taken; that time is not counted here.
"""

import statistics
import time
from collections.abc import Iterable
from collections.abc import Sequence as TypingSequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.harness.report import Report
from deployments.cli.options import machine
from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.model_runner import ModelRunner, RunResult
from drafthouse.engine.native.decoder import step_arrays
from drafthouse.engine.segment import Segment
from drafthouse.errors import ModelError
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.token_tree import ROOT, TokenTree
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import Grow
from verifier.draft_sessions import DraftSessions
from verifier.engine import VerifierEngine
from verifier.node_selection import Selected
from verifier.scheduler import StepPlan
from verifier.sequence import Sequence
from verifier.step import Batch, Step, Walks
from verifier.step_loop import run_step
from verifier.verification import Verification

CONTROL = "greedy again"
KINDS = {
    "greedy": SamplingParams(0.0),
    "sampled": SamplingParams(0.8),
    "top-p 0.95": SamplingParams(0.8, top_p=0.95),
    CONTROL: SamplingParams(0.0),
}
PARENTS = (ROOT, ROOT, ROOT, ROOT, 0, 0, 0, 1, 4, 4, 5, 8, 8, 11, 13, 13)
ROWS = 1 + len(PARENTS)
BEST = (0, 4, 8, 11)
"""A tree's nodes, and those of the path that comes true as far as it goes."""

FIRST_EDGE, OTHER_EDGE = 0.6, 0.1
DRAFTER, CONTEXT, PROMPT_TOKENS = "drafter", 1024, 200
WARM_STEPS, ROUND_STEPS = 20, 50
"""Steps that are not counted, and steps after which requests are new: a text's length is to cost nothing that grows."""

LEAD = 60.0
"""Of the best logit over the others: more than any noise."""

CURVE = Curve("ready", "a benchmark: nodes cost next to nothing, so that trees are verified whole", 5.0, 1e-4, 0.0)
STAGES = ("plan", "select", "prepare", "arrays", "choose", "walk", "commit", "drafts in", "rest")
"""In the order of a step. `drafts in` takes the drafter's messages; `rest` is what lies between."""


class Laps:
    """Seconds of one step that its thread had a core, by stage."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.thread_time()

    def mark(self, stage: str) -> None:
        """The stage has just ended."""
        now = time.thread_time()
        self.seconds[stage] += now - self._last
        self._last = now


class ReadyRunner(ModelRunner):
    """Prepares what the native decoder reads, and has the logits. `ahead_s`: what its runs would have taken."""

    def __init__(self, laps: Laps, logits: torch.Tensor, slots: int):
        self.laps, self.logits, self.vocab_size, self.ahead_s = laps, logits, logits.shape[1], 0.0
        self.cache = KvCache(1, 1, 1, slots, torch.int8, torch.device("cpu"))

    def run(self, segments: TypingSequence[Segment]) -> RunResult:
        self.laps.mark("rest")
        arrays = step_arrays(segments)
        self.laps.mark("arrays")
        seconds = CURVE.seconds(len(arrays.step.tokens), 0)
        self.ahead_s += seconds
        return RunResult(self.logits[: len(arrays.step.outputs)], seconds)


class TimedSessions(DraftSessions):
    """The engine looks at its drafters first when it selects, and tells them last."""

    laps: Laps

    @property
    def able(self) -> int:
        self.laps.mark("plan")
        return super().able

    def hold(self, sequences: Iterable[Sequence]) -> None:
        super().hold(sequences)
        self.laps.mark("select")


class TimedVerification(Verification):
    laps: Laps

    def prepare(self, plan: StepPlan, selected: Selected) -> Batch:
        batch = super().prepare(plan, selected)
        self.laps.mark("prepare")
        return batch

    def choose(self, step: Step, logits: torch.Tensor) -> np.ndarray:
        choices = super().choose(step, logits)
        self.laps.mark("choose")
        return choices

    def walk(self, step: Step, choices: np.ndarray) -> Walks:
        walks = super().walk(step, choices)
        self.laps.mark("walk")
        return walks


class Served:
    """An engine whose sequences all decode; the drafter is this object."""

    def __init__(self, sequences: int, sampling: SamplingParams, vocab: int):
        self.laps, self.sampling, self.count, self.vocab, self.steps = Laps(), sampling, sequences, vocab, 0
        rows = sequences * ROWS
        self.best = np.random.default_rng(0).integers(0, vocab, (sequences, ROWS))
        logits = torch.zeros(rows, vocab)
        logits[torch.arange(rows), torch.from_numpy(self.best.ravel())] = LEAD
        self.runner = ReadyRunner(self.laps, logits, sequences * CONTEXT)
        config = VerifierConfig(max_sequences=sequences, step_tokens=sequences * (PROMPT_TOKENS + ROWS))
        self.engine = VerifierEngine(
            LoadedModel(self.runner, CONTEXT, "bench"), CURVE, config, TreeConfig(), self._now,
            draft_sessions=TimedSessions, verification=TimedVerification,
        )  # fmt: skip
        assert isinstance(self.engine.draft_sessions, TimedSessions)
        assert isinstance(self.engine.verification, TimedVerification)
        self.engine.draft_sessions.laps = self.engine.verification.laps = self.laps
        self.engine.draft_sessions.add_drafter(DRAFTER)

    def _now(self) -> float:
        return time.perf_counter() + self.runner.ahead_s

    def submit(self, turn: int) -> None:
        """New sequences in place of those there are, and the steps of their prompts."""
        for s in list(self.engine.sequences.values()):
            self.engine.cancel(s.id, s.request.attempt)
        for i in range(self.count):
            prompt = tuple((i + at) % self.vocab for at in range(PROMPT_TOKENS))
            self.engine.submit(
                GenerateRequest(f"{turn}.{i}", 1, prompt, (), self.sampling, i, CONTEXT - PROMPT_TOKENS, (), Speculation("auto"))
            )
        while any(s.pending > 1 for s in self.engine.sequences.values()):
            run_step(self.engine)
        self.engine.draft_sessions.take_outbox()

    def step(self) -> dict[str, float]:
        """Seconds by stage. Raises ModelError unless all nodes are verified and those accepted that should be."""
        grows = [self._grow(i, s) for i, s in enumerate(self.engine.sequences.values())]
        before = self.engine.totals.verified, self.engine.totals.accepted
        self.laps.restart()
        for message in grows:
            self.engine.receive(DRAFTER, message)
        self.laps.mark("drafts in")
        run_step(self.engine, departures=self._send, arrivals=lambda: self.laps.mark("rest"))
        self.laps.mark("commit")
        nodes, accepted = self.engine.totals.verified - before[0], self.engine.totals.accepted - before[1]
        wanted = self.count * len(PARENTS), sum(self._right(i) for i in range(self.count))
        if (nodes, accepted) != wanted:
            raise ModelError(f"{nodes} nodes were verified and {accepted} accepted, and not {wanted[0]} and {wanted[1]}")
        self.steps += 1
        return self.laps.seconds

    def _send(self) -> None:
        self.engine.draft_sessions.take_outbox()

    def _right(self, i: int) -> int:
        """How far the best path of sequence `i` comes true in this step."""
        return (self.steps + i) % (len(BEST) + 1)

    def _grow(self, i: int, s: Sequence) -> Grow:
        """A child is what the target chooses there if it is the best path's next node and that comes true so far."""
        assert s.draft_session is not None
        true = {(ROOT, *BEST)[at] for at in range(self._right(i))}
        rank, tree = dict.fromkeys((ROOT, *range(len(PARENTS))), 0), TokenTree()
        for parent in PARENTS:
            token = (int(self.best[i, 1 + parent]) + rank[parent] + (parent not in true)) % self.vocab
            tree.tokens.append(token)
            tree.parents.append(parent)
            tree.edges.append(OTHER_EDGE if rank[parent] else FIRST_EDGE)
            tree.sources.append(0)
            rank[parent] += 1
        return Grow(s.id, s.draft_session.epoch, len(s.tokens), 0, tree, 1_000_000, 0.01)


def run_steps(sequences: int, vocab: int, steps: int) -> Report:
    torch.set_num_threads(1)
    served = {kind: Served(sequences, sampling, vocab) for kind, sampling in KINDS.items()}
    seconds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for turn in track(range(-(-steps // ROUND_STEPS)), "rounds", transient=True):
        for kind, each in served.items():
            each.submit(turn)
            found = [each.step() for _ in range(WARM_STEPS + ROUND_STEPS)]
            seconds[kind] += found[WARM_STEPS:]
    settings = {"sequences": sequences, "nodes": len(PARENTS), "vocab": vocab, "steps": len(seconds[CONTROL])}
    return {"machine": machine(), "settings": settings, "steps": [_row(kind, found) for kind, found in seconds.items()]}


def _row(kind: str, seconds: TypingSequence[dict[str, float]]) -> dict[str, Any]:
    """Milliseconds; of the whole step also the least."""
    whole = [1e3 * sum(each.values()) for each in seconds]
    stages = {stage: 1e3 * statistics.median(each[stage] for each in seconds) for stage in STAGES}
    return {"kind": kind, "median_ms": statistics.median(whole), "least_ms": min(whole), "stages_ms": stages}


def print_steps(console: Console, report: Report) -> None:
    s = report["settings"]
    title = f"Python of a step, ms: {s['sequences']} sequences with {s['nodes']} nodes, vocabulary {s['vocab']:,}, median of {s['steps']}"
    table = Table(title=title, title_justify="left")
    table.add_column("kind")
    for heading in (*STAGES, "step", "least"):
        table.add_column(heading, justify="right")
    for row in report["steps"]:
        figures = [*row["stages_ms"].values(), row["median_ms"], row["least_ms"]]
        table.add_row(row["kind"], *(f"{figure:.3f}" for figure in figures))
    console.print(table)
