"""`drafthouse bench gpu`: the engine on one GPU, at the cost of a real pair, for which nothing is downloaded.

Promises: target and draft are the demo pair inflated (`drafthouse.demo_models.inflate`) to the stated sizes, so texts and acceptance are
the demo pair's and seconds those of the large models. Contestants take turns on the same requests. Both models share the
device and take turns on it. Without CUDA the same code runs a small pair on the CPU, and the report is marked as a toy:
its figures say nothing.
"""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console

from benchmarks.gpu.checks import DRAFT, TARGET, run_checks
from benchmarks.harness.contestants import SAMPLING, Drafthouse, Pair, ours
from benchmarks.harness.interleave import SAMPLINGS, order
from benchmarks.harness.prompts import encode, load_tokenizer
from benchmarks.harness.report import Report, build_report
from benchmarks.harness.samples import Sample, pick
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.demo_models.inflate import inflate
from drafthouse.demo_models.prompts import read_prompts
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest

ON, CONTROL, OFF = "speculation", "speculation again", "plain decoding"
RATIOS = {"speculation_vs_plain": (ON, OFF)}
COPIES = 10


@dataclass(frozen=True)
class Size:
    """Hidden size and layers that the demo pair is grown to."""

    target: tuple[int, int]
    draft: tuple[int, int]
    prompt_tokens: int
    copied_bytes: int


FULL = Size(target=(4352, 32), draft=(1344, 27), prompt_tokens=256, copied_bytes=2 << 30)
"""8.2 billion and 0.5 billion parameters. The demo's vocabulary of 4,096 stays, so heads and sampling cost less than a real pair's."""

TOY = Size(target=(384, 10), draft=(192, 3), prompt_tokens=24, copied_bytes=64 << 20)


@dataclass(frozen=True)
class GpuOptions:
    """`rounds` groups of requests at each batch size; `checks` prompts for the comparison of texts."""

    batches: tuple[int, ...]
    tokens: int
    rounds: int
    checks: int


def run_gpu(options: GpuOptions, console: Console) -> Report:
    """Raises ModelError where a model fails its self-check."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = FULL if device == "cuda" else TOY
    state = machine()
    with console.status("checking the engine"):
        checks = run_checks(device, options.checks, options.tokens)
    with console.status("measuring copy bandwidth"):
        bandwidth = copy_bandwidth(device, size.copied_bytes)
    with _inflated(size, console) as (target, draft):
        kv_tokens = max(options.batches) * (size.prompt_tokens + options.tokens + 128)
        pair = Pair(target, draft, "bfloat16", torch.get_num_threads(), kv_tokens=kv_tokens, device=device)
        with console.status("loading and profiling"):
            speculating, plain = ours(pair)
        batches = [_batch(options, size, speculating, plain, batch, bandwidth, console) for batch in options.batches]
    return {
        "toy": device == "cpu", "checks": [asdict(check) for check in checks], "copy_bandwidth_bytes_per_s": bandwidth,
        "batches": batches, "settings": {
            **asdict(options), **asdict(size), "dtype": "bfloat16", "cuda_graphs": False, "machine": state,
            "device": torch.cuda.get_device_name() if device == "cuda" else state["cpu"], "torch": torch.__version__,
            "parameters": _parameters(speculating),
        },
    }  # fmt: skip


@contextmanager
def _inflated(size: Size, console: Console) -> Iterator[tuple[str, str]]:
    """Folders of the grown pair, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="drafthouse-gpu-") as folder:
        root = pathlib.Path(folder)
        for name, source, (hidden, layers) in (("target", TARGET, size.target), ("draft", DRAFT, size.draft)):
            with console.status(f"inflating the {name} to hidden size {hidden} and {layers} layers"):
                inflate(pathlib.Path(model_path(source)), root / name, hidden, layers)
        yield str(root / "target"), str(root / "draft")


def _batch(
    options: GpuOptions, size: Size, speculating: Drafthouse, plain: Drafthouse, batch: int, bandwidth: float, console: Console
) -> dict[str, Any]:
    """Rates and ratios at one batch size; each round is a group of other prompts, as far as there are any."""
    contestants = {ON: speculating, CONTROL: speculating, OFF: plain}
    ids = itertools.cycle(encode(load_tokenizer(model_path(TARGET)), [prompt.text for prompt in read_prompts()], size.prompt_tokens))
    groups = [list(itertools.islice(ids, batch)) for _ in range(options.rounds)]
    samples: list[Sample] = []
    with console.status("") as status:
        for name in (ON, OFF):
            for sampling in SAMPLINGS:
                _run(contestants[name], groups[0], options.tokens, sampling, 0, name)
        for number, group in enumerate(groups):
            for sampling in SAMPLINGS:
                for name in order(list(contestants), number):
                    status.update(f"batch {batch}, group {number + 1} of {options.rounds}: {name}, {sampling}")
                    samples.append(_run(contestants[name], group, options.tokens, sampling, number, name))
    report = build_report(samples, list(contestants), RATIOS, (CONTROL, ON))
    share = _read_bytes(plain, groups, options.tokens) / sum(s.seconds for s in pick(samples, OFF, "greedy")) / bandwidth
    return {"batch": batch, **report, "plain_share_of_copy_bandwidth": share}


def _run(contestant: Drafthouse, prompts: Sequence[Sequence[int]], tokens: int, sampling: str, group: int, name: str) -> Sample:
    """One group from its prompts to its last token."""
    requests = [
        GenerateRequest(
            str(i), 1, tuple(prompt), (), SAMPLING[sampling], group * len(prompts) + i, tokens, (), Speculation(contestant.mode)
        )
        for i, prompt in enumerate(prompts)
    ]
    totals = contestant.process.verifier.totals
    steps, started = totals.steps, time.perf_counter()
    outputs = contestant.process.generate(requests)
    seconds = time.perf_counter() - started
    assert all(len(output) == tokens for output in outputs.values()), "no request stops early"
    return Sample(name, sampling, group, tokens * len(prompts), seconds, totals.steps - steps)


def _read_bytes(plain: Drafthouse, groups: Sequence[Sequence[Sequence[int]]], tokens: int) -> float:
    """What plain decoding of all groups has to read at least: every weight once for each of `tokens` steps, and before the i-th
    token of a sequence its KV entries, prompt and i - 1."""
    runner = plain.process.verifier.runner
    data = runner.cache.data
    entry = data.element_size() * data.shape[0] * data.shape[1] * data.shape[2] * data.shape[4]
    weights = runner.forward.weight_bytes
    entries = sum(tokens * len(prompt) + tokens * (tokens - 1) / 2 for group in groups for prompt in group)
    return weights * tokens * len(groups) + entry * entries


def _parameters(speculating: Drafthouse) -> dict[str, int]:
    (drafter,) = speculating.process.drafters.values()
    assert drafter.draft is not None
    runners = {"target": speculating.process.verifier.runner, "draft": drafter.draft.runner}
    return {name: runner.forward.parameters for name, runner in runners.items()}


def copy_bandwidth(device: str, size: int) -> float:
    """The roof under which plain decoding stands: bytes per second, read and written ones together; the best of COPIES of `size` bytes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(COPIES):
        _wait(device)
        started = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
