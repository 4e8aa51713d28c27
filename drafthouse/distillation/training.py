"""The second stage of a distillation: from the target's text to a draft's folder.

Promises: takes the time that `--minutes` leaves for it, earlier runs included. A run that was killed goes on from its last checkpoint;
one that is given more minutes goes on from where the last ended.
"""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from transformers import PreTrainedModel

from drafthouse.checkpoints.model_path import model_path
from drafthouse.distillation.agreement import Agreement
from drafthouse.distillation.batches import Packing
from drafthouse.distillation.checkpoint import Checkpoint, Shape, read_checkpoint
from drafthouse.distillation.draft_files import write_draft
from drafthouse.distillation.fuse_start import begin_fuse
from drafthouse.distillation.head_ids import choose_head_ids, token_weights
from drafthouse.distillation.head_start import begin_head
from drafthouse.distillation.llama_export import export_llama
from drafthouse.distillation.measured_pace import Latencies, draft_latency, target_latency
from drafthouse.distillation.network import DraftNetwork, target_modules
from drafthouse.distillation.options import DistillOptions
from drafthouse.distillation.report import FILE as REPORT
from drafthouse.distillation.report import Findings, Moment, report
from drafthouse.distillation.schedule import Budget
from drafthouse.distillation.shards import Text, write_whole
from drafthouse.distillation.sizes import SHARE as SIZE_SHARE
from drafthouse.distillation.sizes import Size, best_size, sizes_to_try, try_sizes
from drafthouse.distillation.text_folder import TextFolder
from drafthouse.distillation.text_stage import needs_states
from drafthouse.distillation.trainer import WATCHED_TEXTS, Trainer, Training
from drafthouse.engine.model_limits import limits_of, read_config
from drafthouse.engine.vocabulary import vocabulary_digest
from drafthouse.errors import ConfigError, DrafthouseError
from drafthouse.policy.latency import LatencyModel

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


@dataclass(frozen=True, slots=True)
class Material:
    """What a draft of any size is made from."""

    options: DistillOptions
    texts: Sequence[Text]
    held_out: Sequence[Text]
    vocabulary: str

    def trainer(self, layers: int, found: Checkpoint | None) -> Trainer:
        """With a network begun from the target's weights, or from where `found` stands."""
        options = self.options
        torch.manual_seed(options.seed)
        target = target_modules(options.target, options.trust_remote_code)
        vocab_size = target.lm_head.weight.shape[0]
        head_ids = self._head_ids(target) if found is None else found.head_ids
        network = DraftNetwork(target, layers, head_ids, options.hidden).to(options.device)
        packing = Packing(head_ids.numpy(), vocab_size, options.hidden)
        if found is None and self.texts[0].states is not None:
            if options.hidden:
                begin_fuse(network, self.texts)
            else:
                begin_head(network, packing, self.texts)
        trainer = Trainer(network, packing, self.texts, self.held_out, options.seed)
        if found is not None:
            trainer.restore(found)
        return trainer

    def _head_ids(self, target: PreTrainedModel) -> torch.Tensor:
        stops = target.config.eos_token_id
        always = [stops] if isinstance(stops, int) else stops or []
        weights = token_weights(self.texts, target.lm_head.weight.shape[0])
        return torch.from_numpy(choose_head_ids(weights, always, self.options.head_tokens))

    def write(self, trainer: Trainer, folder: pathlib.Path, spent_s: float) -> None:
        """The draft as it stands."""
        network = trainer.network
        facts = {
            "layers": len(network.picked), "head_tokens": len(network.head_ids), "minutes": spent_s / 60, "learned_rows": trainer.rows,
            "loss": trainer.loss,
        }  # fmt: skip
        write_draft(network, folder, self.options.target, self.vocabulary, facts)


def train(options: DistillOptions, text: TextFolder, progress: Callable[[Training], None]) -> Result:
    """Raises ConfigError, ModelError."""
    torch.set_num_threads(options.threads)
    _allow_short_products(options.device)
    material, work = _material(options, text), options.output / WORK
    found = read_checkpoint(work)
    if found is not None:
        _check_shape(options, found, work)
    target = cache(lambda: target_latency(options))
    tried = _tried(material, work, target, found is None, progress) if options.layers is None else []
    layers = found.shape.layers if found is not None else options.layers or (best_size(tried).layers if tried else 1)
    trainer, shape = material.trainer(layers, found), Shape(options.target, layers, options.hidden)
    seconds = options.training_seconds * (1 - END_SHARE - SIZE_SHARE * len(tried))

    def save(spent: Budget) -> None:
        trainer.checkpoint(shape, spent.spent).write(work)
        material.write(trainer, options.output, spent.spent)

    budget = trainer.run(Budget(seconds, found.spent_s if found is not None else 0.0), progress, save)
    agreement = trainer.measure(material.held_out[:MEASURED_TEXTS])
    network = trainer.network
    findings = Findings(
        layers=layers, head_tokens=len(network.head_ids), vocab_size=network.config.vocab_size,
        parameters=sum(value.numel() for value in network.learned().values()), agreement=agreement,
        history=[Moment(*each) for each in trainer.history], latencies=_latencies(options, target), tried=tried, texts=len(text),
        text_tokens=text.tokens, text_seconds=text.seconds, seconds=budget.spent,
    )  # fmt: skip
    _write_report(options, findings)
    if options.export_llama is not None:
        export_llama(options.output, options.export_llama, options.target, options.trust_remote_code)
    return Result(options.output, layers, len(network.head_ids), agreement, trainer.rows, budget.spent)


def _material(options: DistillOptions, text: TextFolder) -> Material:
    """Raises ConfigError where there is too little, or not what was asked for."""
    if options.export_llama is not None and options.hidden:
        raise ConfigError("--export-llama: other engines send no hidden states; make a draft without --hidden for them")
    if options.training_seconds <= 0:
        raise ConfigError(f"--text-share {options.text_share:g} leaves no time to learn; give it less")
    texts, held_out = list(text.training()), list(text.held_out())
    if not texts or not held_out:
        raise ConfigError(f"{options.output}: {len(text)} texts are too few to learn from; give --minutes or --text-share more")
    needs_states(text, options.hidden)
    return Material(options, texts, held_out, vocabulary_digest(model_path(options.target), options.trust_remote_code))


def _tried(
    material: Material, work: pathlib.Path, target: Callable[[], LatencyModel], more: bool, progress: Callable[[Training], None]
) -> list[Size]:
    """Sizes that learned for a share of the time each; none where that is too short. Without `more` those of earlier runs alone."""
    options = material.options
    sizes = sizes_to_try(limits_of(read_config(options.target, options.trust_remote_code)).layers, options.training_seconds)
    if not sizes:
        return []

    def judge(layers: int) -> Size:
        trainer, folder = material.trainer(layers, None), work / f"layers-{layers}"
        budget = trainer.run(Budget(options.training_seconds * SIZE_SHARE), progress, lambda budget: None)
        material.write(trainer, folder, budget.spent)
        agreement, draft = trainer.measure(material.held_out[:WATCHED_TEXTS]), draft_latency(options, folder)
        return Size.judged(layers, agreement, target(), draft, options.hidden)

    work.mkdir(parents=True, exist_ok=True)
    return try_sizes(sizes if more else [], work, judge)


def _write_report(options: DistillOptions, findings: Findings) -> None:
    write_whole(options.output / REPORT, report(options, findings).encode())


def _latencies(options: DistillOptions, target: Callable[[], LatencyModel]) -> Latencies | str:
    """Why not, where the draft or its target cannot be loaded here: an hour's draft is there all the same."""
    try:
        return Latencies(target(), draft_latency(options, options.output))
    except DrafthouseError as error:
        return str(error)


def _check_shape(options: DistillOptions, found: Checkpoint, work: pathlib.Path) -> None:
    """Raises ConfigError where a training goes on that is not the one asked for."""
    asked = Shape(options.target, options.layers or found.shape.layers, options.hidden)
    if asked != found.shape:
        raise ConfigError(f"{work}: holds a training of {found.shape}, and asked for is {asked}; name another folder for --output")


def _allow_short_products(device: str) -> None:
    """Products of float32 in fewer bits where the hardware has them: TF32 on GPUs, bfloat16 on CPUs that multiply it themselves."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    elif torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        torch.set_float32_matmul_precision("medium")
