"""`drafthouse train-demo`: the whole way from source files on this machine to the folders in the package.

Promises: `train` is corpus, tokenizer, rows, target, the target's own text, draft, then `finish`;
`finish` alone turns float32 folders of such a run into what ships: half precision, evaluation,
model card and prompts.
"""

import importlib.metadata
import os
import pathlib
import platform
import sys

import numpy as np
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from drafthouse.demo_models import tokens, training
from drafthouse.demo_models.card import Run, write_card
from drafthouse.demo_models.corpus import PACKAGES, Corpus, load_corpus
from drafthouse.demo_models.evaluation import evaluate
from drafthouse.demo_models.prompts import FILE_NAME, STANDARD_LIBRARY, pick_prompts, write_prompts
from drafthouse.errors import ConfigError

OWN_ROWS = 8000
"""Rows of the target's own text that the draft learns from."""

WORK_FOLDER = "float32"
CARD = "MODEL_CARD.md"

MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Keeps freed memory and uses huge pages: page faults of fresh activations cost a third of a step otherwise."""


def use_large_pages() -> None:
    """Starts this process again with MALLOC_ENVIRONMENT, which glibc reads at start only; returns where it is set already."""
    if all(os.environ.get(name) == value for name, value in MALLOC_ENVIRONMENT.items()):
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | MALLOC_ENVIRONMENT)


def train(output: pathlib.Path, target_steps: int, draft_steps: int, threads: int | None = None) -> None:
    """Trains and finishes; checkpoints in float32 stay in `output/float32`."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    work = output / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        progress.console.print("reading the corpus")
        corpus = load_corpus()
        progress.console.print(f"{len(corpus.train)} training files; training the tokenizer")
        tokenizer = tokens.train_tokenizer(corpus)
        tokenizer.save_pretrained(work / "target")
        rows = tokens.training_rows(tokenizer, corpus)
        progress.console.print(f"{len(rows)} rows of {tokens.CONTEXT} tokens")
        target = training.train_target(rows, target_steps, work / "target", progress)
        own = training.self_generated(target, rows, OWN_ROWS, progress)
        training.distil_draft(target, rows, own, draft_steps, work / "draft", progress)
    finish(work, output, target_steps, draft_steps, threads, corpus)


def finish(
    source: pathlib.Path,
    output: pathlib.Path,
    target_steps: int,
    draft_steps: int,
    threads: int | None = None,
    corpus: Corpus | None = None,
) -> None:
    """Turns `source/target` (with the tokenizer) and `source/draft` into what ships, in `output`. Raises ConfigError."""
    for name in ("target/config.json", "target/tokenizer.json", "draft/config.json"):
        if not (source / name).is_file():
            raise ConfigError(f"{source / name}: missing; a training run leaves it there")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    corpus = corpus or load_corpus()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source / "target")
    output.mkdir(parents=True, exist_ok=True)
    models = {}
    for role in ("target", "draft"):
        _save_half(source / role, output / role)
        tokenizer.save_pretrained(output / role)
        models[role] = _load(output / role)
    prompts = pick_prompts(tokenizer, corpus.held_out)
    write_prompts(output / FILE_NAME, prompts)
    result = evaluate(models["target"], models["draft"], tokenizer, prompts, _held_out_rows(tokenizer, corpus))
    card = write_card(Run(target_steps, draft_steps, _versions()), corpus, result)
    (output / CARD).write_text(card, encoding="utf-8")


def _save_half(source: pathlib.Path, destination: pathlib.Path) -> None:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    # Requests say how to sample; the end token is all that a default may settle.
    model.generation_config.do_sample = False
    model.half().save_pretrained(destination)


def _load(folder: pathlib.Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def _held_out_rows(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> dict[str, np.ndarray]:
    library = [file for file in corpus.held_out if file.name.startswith(f"{STANDARD_LIBRARY}/")]
    return {
        "standard library": tokens.cut(tokens.encode(tokenizer, library)),
        "all sources": tokens.cut(tokens.encode(tokenizer, corpus.held_out)),
    }


def _versions() -> dict[str, str]:
    found = {STANDARD_LIBRARY: platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
