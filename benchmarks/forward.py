"""What a step costs on the native decoder and through transformers' modules: the same weights, cached tokens and rows. transformers
has no int8 here, so the native decoder in bfloat16 stands beside that.

Promises: each round runs every contestant once on every case, in turn; the native decoder runs twice, as the A/A control. No text
is compared here: `tests/engine/test_native_decoder.py` does that.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.harness.report import Report
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.attention import stock_models
from drafthouse.engine.cpu_linear import pack_linears
from drafthouse.engine.fit import kv_shape
from drafthouse.engine.float32_head import widen_head
from drafthouse.engine.forward import StockForward
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.loader import prepare, stored_dtype
from drafthouse.engine.model_runner import ModelRunner
from drafthouse.engine.packed_step import tree_step
from drafthouse.engine.segment import Segment, chunk
from drafthouse.errors import ConfigError
from drafthouse.token_tree import ROOT, TokenTree

NATIVE, CONTROL, STOCK, BFLOAT16 = "native", "native again", "transformers", "native bfloat16"
CACHED = 300
SLOTS = 2048


@dataclass(frozen=True, slots=True)
class Case:
    """`rows` new tokens after `cached` ones: a root and its children, or with nothing cached a prompt."""

    rows: int
    cached: int

    @property
    def name(self) -> str:
        return f"{self.rows} rows after {self.cached}" if self.cached else f"prompt of {self.rows}"


CASES = (Case(1, CACHED), Case(2, CACHED), Case(5, CACHED), Case(17, CACHED), Case(16, 0), Case(256, 0), Case(1024, 0))


def run_forward(target: str, dtype: str, threads: int, rounds: int) -> Report:
    """Raises ConfigError where the native decoder does not run this model here."""
    torch.set_num_threads(threads)
    path = model_path(target)
    config = ModelConfig(path=target, dtype=dtype, threads=threads, kv_tokens=SLOTS)
    native = _native(path, config)
    if native.forward.name != NATIVE:
        raise ConfigError(f"--target {target}: the native decoder does not run it here; it runs through {native.forward.name}")
    other = BFLOAT16 if dtype == "int8" else STOCK
    beside = _stock(path, config) if other == STOCK else _native(path, config.model_copy(update={"dtype": "bfloat16"}))
    runners = {NATIVE: native, other: beside, CONTROL: native}
    seconds: dict[str, dict[str, list[float]]] = {case.name: {name: [] for name in runners} for case in CASES}
    for _ in track(range(rounds), "rounds", transient=True):
        for case in CASES:
            for name, runner in runners.items():
                seconds[case.name][name].append(_time(runner, case))
    native.close()
    beside.close()
    return {
        "machine": machine(),
        "settings": {"target": target, "dtype": dtype, "threads": threads, "rounds": rounds, "beside": other},
        "steps": _rows(seconds, other),
    }


def _native(path: str, config: ModelConfig) -> ModelRunner:
    return prepare(AutoModelForCausalLM.from_pretrained(path, dtype=stored_dtype(config)), config, "bench").runner


def _stock(path: str, config: ModelConfig) -> ModelRunner:
    """The model as it is served where no C++ compiler is."""
    stock_models.register()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, config.dtype), attn_implementation=stock_models.IMPLEMENTATION)
    shape = kv_shape(model.eval(), 1)
    pack_linears(model)
    widen_head(model)
    cache = KvCache(shape.layers, shape.kv_heads, shape.head_dim, SLOTS, model.dtype, model.device)
    return ModelRunner(StockForward(model), cache)


def _time(runner: ModelRunner, case: Case) -> float:
    kv = KvSequence(runner.cache)
    try:
        if case.cached:
            runner.run([chunk(kv, [5] * case.cached, 0, False)])
        return runner.run([_segment(kv, case)]).seconds
    finally:
        kv.release()


def _segment(kv: KvSequence, case: Case) -> Segment:
    if not case.cached:
        return chunk(kv, list(range(case.rows)), 0, True)
    tree = TokenTree()
    for token in range(case.rows - 1):
        tree.add(token, ROOT, 0.1, 0)
    return tree_step(kv, 7, tree)


def _rows(seconds: dict[str, dict[str, list[float]]], other: str) -> list[dict[str, Any]]:
    rows = []
    for case, by_name in seconds.items():
        median = {name: statistics.median(times) for name, times in by_name.items()}
        milliseconds = {f"{name}_ms": 1e3 * value for name, value in median.items()}
        rows.append({"case": case, **milliseconds, "speed_up": median[other] / median[NATIVE], "control": median[CONTROL] / median[NATIVE]})
    return rows


def print_forward(console: Console, report: Report) -> None:
    """Milliseconds (medians) and ratios."""
    s = report["settings"]
    table = Table(title=f"{s['target']}, {s['dtype']}, {s['threads']} threads, median of {s['rounds']} rounds", title_justify="left")
    for heading in ("step", "native, ms", f"{s['beside']}, ms", "speed-up", "control"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for row in report["steps"]:
        table.add_row(
            row["case"], f"{row['native_ms']:.1f}", f"{row[s['beside'] + '_ms']:.1f}", f"{row['speed_up']:.2f}", f"{row['control']:.2f}"
        )
    console.print(table)
