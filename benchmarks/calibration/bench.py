"""Do edges keep their word? Reliability of the prior and of the calibration on held-out text, and what predicts acceptance.

The target continues held-out prompts, greedy and at temperature 1; the draft ranks every position of
the target's own text, as it would below an accepted node. Half of the prompts teach a calibration,
the other half judges it. Promises: deterministic; nothing depends on the machine's speed.
"""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel

from benchmarks.harness.contestants import load_stock
from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from drafthouse.checkpoints.model_path import model_path
from drafthouse.choose import Rows, rank
from drafthouse.config.serving import TreeConfig
from drafthouse.demo_models.evaluation import SEED, continue_text
from drafthouse.errors import ConfigError
from drafthouse.policy.calibration import Calibration, brier
from drafthouse.sampling import SamplingParams

SAMPLINGS = {"greedy": SamplingParams(0.0), "sampled": SamplingParams(1.0)}
SOURCE = 0
"""Of all children here; the calibration only keeps sources apart."""
WIDTH = TreeConfig().width
PROMPT_TOKENS = 96
"""Prompts are cut to their last so many tokens."""
BATCH = 8
"""Prompts that run together: logits of all their positions lie in memory."""
BINS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Upper bounds of the predicted edges that are averaged together; finer at the bottom, where most children are."""

Report = dict[str, Any]
Edges = Callable[[int, Sequence[float], float], list[float]]
"""(source, margins, temperature) to edges."""


@dataclass(frozen=True)
class CalibrationOptions:
    target: str
    draft: str
    prompts: int
    tokens: int
    threads: int
    prompts_file: pathlib.Path | None


@dataclass(frozen=True, slots=True)
class Position:
    """One token of the target's text: the prompt it follows, the draft's children there, the rank of the token among
    them or -1, and the draft's own probability of its first child."""

    prompt: int
    margins: tuple[float, ...]
    hit: int
    probability: float


def run_calibration(options: CalibrationOptions) -> Report:
    """Raises ConfigError or ModelError naming the option at fault."""
    if options.prompts < 2:
        raise ConfigError(f"--prompts {options.prompts}: one half teaches, the other judges, so there must be 2 at least")
    torch.set_num_threads(options.threads)
    texts = load_texts(options.prompts_file, options.prompts)
    ids = encode(load_tokenizer(model_path(options.target)), texts, PROMPT_TOKENS)
    length = min(map(len, ids))
    target, draft = load_stock(options.target, "float32"), load_stock(options.draft, "float32")
    if target.config.vocab_size != draft.config.vocab_size:
        raise ConfigError(
            f"--draft {options.draft}: vocabulary of {draft.config.vocab_size} tokens, the target has {target.config.vocab_size}"
        )
    prompts = torch.tensor([each[-length:] for each in ids])
    measured = {}
    for name, sampling in SAMPLINGS.items():
        positions = [
            position
            for first in track(range(0, len(prompts), BATCH), description=name, transient=True)
            for position in ranked_positions(target, draft, prompts[first : first + BATCH], first, sampling, options.tokens)
        ]
        measured[name] = judge(positions, sampling.temperature)
    settings = {
        "target": options.target, "draft": options.draft, "prompts": options.prompts, "prompt_tokens": length, "tokens": options.tokens,
        "prompts_file": str(options.prompts_file or "held-out prompts of the package"), "width": WIDTH, "bins": BINS,
    }  # fmt: skip
    return {"settings": settings, **measured}


@torch.no_grad()
def ranked_positions(
    target: PreTrainedModel, draft: PreTrainedModel, prompts: torch.Tensor, first: int, sampling: SamplingParams, tokens: int
) -> list[Position]:
    """Of the target's continuations of prompts `[B, P]`, the first of which is number `first`; each up to its end of text."""
    ids = continue_text(target, prompts, sampling, tokens)
    logits = draft(input_ids=ids[:, :-1], use_cache=False).logits
    ends = draft.config.eos_token_id
    positions, going = [], list(range(len(ids)))
    for at in range(prompts.shape[1], ids.shape[1]):
        rows = [Rows(sampling, SEED + i, [at]) for i in going]
        here = logits[going, at - 1]
        ranked, margins = rank(here, rows, WIDTH)
        probabilities = (here.float() / (sampling.temperature or 1.0)).softmax(-1)
        for row, i in enumerate(going):
            chosen = int(ids[i, at])
            hit = ranked[row].index(chosen) if chosen in ranked[row] else -1
            positions.append(Position(first + i, tuple(margins[row]), hit, float(probabilities[row, ranked[row][0]])))
        going = [i for i in going if int(ids[i, at]) != ends]
        if not going:
            break
    return positions


def judge(positions: Sequence[Position], temperature: float) -> Report:
    """Prompts of even number teach, those of odd number judge."""
    learned = Calibration()
    for p in positions:
        if p.prompt % 2 == 0:
            learned.observe(SOURCE, p.margins, temperature, p.hit)
    judged = [p for p in positions if p.prompt % 2 == 1]
    first = np.array([p.hit == 0 for p in judged])
    return {
        "taught": learned.labels,
        "judged": len(judged),
        "first_accepted": float(first.mean()),
        "any_accepted": float(np.mean([p.hit >= 0 for p in judged])),
        "auc_margin": auc([p.margins[0] for p in judged], first),
        "auc_probability": auc([p.probability for p in judged], first),
        "auc_margin_by_rank": [_auc_of_rank(judged, rank, rank) for rank in range(WIDTH)],
        "auc_distance_by_rank": [None, *(_auc_of_rank(judged, rank, rank - 1) for rank in range(1, WIDTH))],
        "prior": reliability(Calibration().edges, judged, temperature),
        "calibrated": reliability(learned.edges, judged, temperature),
    }


def _auc_of_rank(positions: Sequence[Position], rank: int, margin: int) -> float | None:
    """How well the margin of rank `margin` (that above: the distance to it) predicts the child where no other above was accepted."""
    open_ = [p for p in positions if len(p.margins) > rank and (p.hit < 0 or p.hit >= rank)]
    sign = 1.0 if margin == rank else -1.0
    return auc([sign * p.margins[margin] for p in open_], np.array([p.hit == rank for p in open_]))


def auc(scores: Sequence[float], hits: np.ndarray) -> float | None:
    """Probability that a hit scores above a miss, ties counting half (Mann-Whitney); None without both."""
    values = np.asarray(scores, dtype=np.float64)
    n_hits = int(hits.sum())
    if not 0 < n_hits < len(hits):
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[hits].sum() - n_hits * (n_hits + 1) / 2) / (n_hits * (len(hits) - n_hits)))


def reliability(edges_of: Edges, positions: Sequence[Position], temperature: float) -> Report:
    """Predicted against measured, over all children: `bins` by predicted edge, their weighted error `ece`, and the Brier
    score of a position's children."""
    edges = [edges_of(SOURCE, p.margins, temperature) for p in positions]
    predicted = np.array([edge for each in edges for edge in each])
    accepted = np.array([rank == p.hit for p, each in zip(positions, edges, strict=True) for rank in range(len(each))])
    bucket = np.searchsorted(BINS, predicted)
    bins = [
        {"predicted": float(predicted[part].mean()), "measured": float(accepted[part].mean()), "count": int(part.sum())}
        for part in (bucket == each for each in range(len(BINS) + 1))
        if part.any()
    ]
    return {
        "ece": sum(b["count"] * abs(b["predicted"] - b["measured"]) for b in bins) / len(predicted),
        "brier": float(np.mean([brier(each, p.hit) for p, each in zip(positions, edges, strict=True)])),
        "bins": bins,
    }


def print_calibration(console: Console, report: Report) -> None:
    s = report["settings"]
    console.print(f"target {s['target']}, draft {s['draft']}; {s['prompts']} prompts x {s['tokens']} tokens", style="bold", highlight=False)
    table = Table()
    table.add_column("", no_wrap=True)
    for name in SAMPLINGS:
        table.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[Report], float | None]]] = [
        ("positions judged", lambda r: r["judged"]),
        ("first child accepted", lambda r: r["first_accepted"]),
        (f"one of {WIDTH} accepted", lambda r: r["any_accepted"]),
        ("AUC of the margin", lambda r: r["auc_margin"]),
        ("AUC of the draft's probability", lambda r: r["auc_probability"]),
        *((f"AUC of the lead, child {i + 1}", lambda r, i=i: r["auc_margin_by_rank"][i]) for i in range(1, WIDTH)),
        *((f"AUC of the distance above, child {i + 1}", lambda r, i=i: r["auc_distance_by_rank"][i]) for i in range(1, WIDTH)),
        ("calibration error, prior", lambda r: r["prior"]["ece"]),
        ("calibration error, learned", lambda r: r["calibrated"]["ece"]),
        ("Brier score, prior", lambda r: r["prior"]["brier"]),
        ("Brier score, learned", lambda r: r["calibrated"]["brier"]),
    ]
    for label, value in rows:
        table.add_row(label, *(_cell(value(report[name])) for name in SAMPLINGS))
    console.print(table)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
