"""The second stage of a distillation: from the target's text to a draft's folder.

Promises: takes the time that `--minutes` leaves for it, earlier runs included. A run that was killed goes on from its last checkpoint;
one that is given more minutes goes on from where the last ended.
"""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from drafthouse.checkpoints.model_path import model_path
from drafthouse.distillation.agreement import Agreement
from drafthouse.distillation.batches import Packing
from drafthouse.distillation.checkpoint import Checkpoint, Shape, read_checkpoint
from drafthouse.distillation.draft_files import write_draft
from drafthouse.distillation.fuse_start import begin_fuse
from drafthouse.distillation.head_ids import choose_head_ids, token_weights
from drafthouse.distillation.llama_export import export_llama
from drafthouse.distillation.measured_pace import Latencies, measured_latencies
from drafthouse.distillation.network import DraftNetwork, target_modules
from drafthouse.distillation.options import DistillOptions
from drafthouse.distillation.report import FILE as REPORT
from drafthouse.distillation.report import Findings, Moment, report
from drafthouse.distillation.schedule import Budget
from drafthouse.distillation.shards import Text
from drafthouse.distillation.text_folder import TextFolder, is_held_out
from drafthouse.distillation.trainer import Trainer, Training
from drafthouse.engine.vocabulary import vocabulary_digest
from drafthouse.errors import ConfigError, DrafthouseError

WORK = "training"
"""The folder of checkpoints in a draft's folder."""

END_SHARE = 0.05
"""Part of the time for the last measurements and the report."""

MEASURED_TEXTS = 160
"""Held-out texts on which the finished draft is measured, at most."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished draft: its folder, agreement on held-out text, rows learned, and the seconds that training took in all."""

    folder: pathlib.Path
    layers: int
    head_tokens: int
    agreement: Agreement
    learned_rows: int
    seconds: float


def train(options: DistillOptions, text: TextFolder, progress: Callable[[Training], None]) -> Result:
    """Raises ConfigError, ModelError."""
    torch.set_num_threads(options.threads)
    _allow_short_products(options.device)
    texts = [each for each in text if not is_held_out(each.number)]
    held_out = [each for each in text if is_held_out(each.number)]
    if options.export_llama is not None and options.hidden:
        raise ConfigError("--export-llama: other engines send no hidden states; make a draft without --hidden for them")
    if options.training_seconds <= 0:
        raise ConfigError(f"--text-share {options.text_share:g} leaves no time to learn; give it less")
    if not texts or not held_out:
        raise ConfigError(f"{options.output}: {len(text)} texts are too few to learn from; give --minutes or --text-share more")
    if options.hidden and texts[0].states is None:
        raise ConfigError(f"{options.output}: its text was written without hidden states; name another folder for --hidden")
    work = options.output / WORK
    before = read_checkpoint(work)
    if before is not None:
        _check_shape(options, before, work)
    trainer = _trainer(options, texts, held_out, before)
    shape = Shape(options.target, len(trainer.network.picked), options.hidden)
    budget = Budget(options.training_seconds * (1 - END_SHARE), before.spent_s if before is not None else 0.0)
    vocabulary = vocabulary_digest(model_path(options.target), options.trust_remote_code)

    def save(spent: Budget) -> None:
        trainer.checkpoint(shape, spent.spent).write(work)
        head_tokens = len(trainer.network.head_ids)
        facts = {"head_tokens": head_tokens, "minutes": spent.spent / 60, "learned_rows": trainer.rows, "loss": trainer.loss}
        write_draft(trainer.network, options.output, options.target, vocabulary, asdict(shape) | facts)

    budget = trainer.run(budget, progress, save)
    agreement = trainer.measure(held_out[:MEASURED_TEXTS])
    found = Findings(
        layers=shape.layers, head_tokens=len(trainer.network.head_ids), vocab_size=trainer.network.config.vocab_size,
        parameters=sum(value.numel() for value in trainer.network.learned().values()), agreement=agreement,
        history=[Moment(*each) for each in trainer.history], latencies=_latencies(options), texts=len(text), text_tokens=text.tokens,
        text_seconds=text.seconds, seconds=budget.spent,
    )  # fmt: skip
    (options.output / REPORT).write_text(report(options, found), encoding="utf-8")
    if options.export_llama is not None:
        export_llama(options.output, options.export_llama, options.target, options.trust_remote_code)
    return Result(options.output, shape.layers, len(trainer.network.head_ids), agreement, trainer.rows, budget.spent)


def _latencies(options: DistillOptions) -> Latencies | str:
    """Why not, where the draft or its target cannot be loaded here: an hour's draft is there all the same."""
    try:
        return measured_latencies(options)
    except DrafthouseError as error:
        return str(error)


def _check_shape(options: DistillOptions, found: Checkpoint, work: pathlib.Path) -> None:
    """Raises ConfigError where a training goes on that is not the one asked for."""
    asked = Shape(options.target, options.layers or found.shape.layers, options.hidden)
    if asked != found.shape:
        raise ConfigError(f"{work}: holds a training of {found.shape}, and asked for is {asked}; name another folder for --output")


def _trainer(options: DistillOptions, texts: Sequence[Text], held_out: Sequence[Text], found: Checkpoint | None) -> Trainer:
    """With a network begun from the target's weights, or from where `found` stands."""
    torch.manual_seed(options.seed)
    target = target_modules(options.target, options.trust_remote_code)
    vocab_size = target.lm_head.weight.shape[0]
    if found is None:
        stops = target.config.eos_token_id
        always = [stops] if isinstance(stops, int) else stops or []
        head_ids = torch.from_numpy(choose_head_ids(token_weights(texts, vocab_size), always, options.head_tokens))
    else:
        head_ids = found.head_ids
    layers = found.shape.layers if found is not None else options.layers or 1
    network = DraftNetwork(target, layers, head_ids, options.hidden).to(options.device)
    if options.hidden and found is None:
        begin_fuse(network, texts)
    trainer = Trainer(network, Packing(head_ids.numpy(), vocab_size, options.hidden), texts, held_out, options.seed)
    if found is not None:
        trainer.restore(found)
    return trainer


def _allow_short_products(device: str) -> None:
    """Products of float32 in fewer bits where the hardware has them: TF32 on GPUs, bfloat16 on CPUs that multiply it themselves."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    elif torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        torch.set_float32_matmul_precision("medium")
