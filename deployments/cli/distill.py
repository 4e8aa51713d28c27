"""`drafthouse distill`: makes a draft for a target.

Promises: the same command goes on where a run was stopped or killed.
"""

import os
import pathlib
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.options import errors
from drafthouse.config.serving import ModelConfig
from drafthouse.distillation.options import MAX_TEXT_TOKENS, DistillOptions
from drafthouse.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from drafthouse.distillation.prompt_encoder import PromptEncoder
    from drafthouse.distillation.prompt_file import PromptLine
    from drafthouse.distillation.text_folder import TextFolder
    from drafthouse.distillation.trainer import Training
    from drafthouse.engine.loader import LoadedModel

LEAST_SEQUENCES = 4
"""With fewer texts side by side a model is too large for this machine to write much."""


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def distill(
    target: Annotated[str, typer.Option(help="The model to make a draft for: folder, GGUF file, hub id, smollm2 or demo:target.")],
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the draft, its report and the text it learns from.")],
    minutes: Annotated[float, typer.Option(help="Time for all of it, earlier runs into the same folder included.", min=0.01)] = 60.0,
    hidden: Annotated[bool, typer.Option("--hidden", help="Make a draft that reads the target's hidden states.")] = False,
    prompts: Annotated[
        pathlib.Path | None,
        typer.Option(help='Your own prompts, one JSON object a line: {"prompt": "..."} or {"messages": [...]}.'),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the target's weights are held in.")] = Dtype.bfloat16,
    device: Annotated[Device, typer.Option(help="Where it runs.")] = Device.cpu,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default one for each core.", min=1, max=512)] = None,
    seed: Annotated[int, typer.Option(help="Of prompts, text and training.", min=0)] = 0,
    text_share: Annotated[float, typer.Option(help="Part of the time in which the target writes.", min=0.01, max=1.0)] = 0.4,
    sequences: Annotated[int, typer.Option(help="Texts that the target writes side by side.", min=1, max=1024)] = 64,
    layers: Annotated[int | None, typer.Option(help="Of the draft.", min=1, max=16)] = None,
    export_llama: Annotated[
        pathlib.Path | None, typer.Option(help="Also write the draft with its whole vocabulary to this folder, for other engines.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the target.")] = False,
) -> None:
    """Make a draft for a target: the target writes text, a small model learns from it. Stop it at any time: the same command goes on."""
    with errors():
        options = DistillOptions(
            target=target, output=output, minutes=minutes, hidden=hidden, prompts=prompts, dtype=dtype.value, device=device.value,
            threads=threads or len(os.sched_getaffinity(0)), seed=seed, text_share=text_share, sequences=sequences,
            layers=layers, export_llama=export_llama, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        try:
            _make(options, console)
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on from there")
            raise typer.Exit(130) from None


def _make(options: DistillOptions, console: Console) -> None:
    """Text, then the draft; no other run works in the folder meanwhile. Raises ConfigError, ModelError."""
    from drafthouse.checkpoints.model_folder import check_model
    from drafthouse.checkpoints.model_path import model_path
    from drafthouse.distillation.prompt_file import read_prompts
    from drafthouse.distillation.text_stage import FolderRecord, taken

    lines = read_prompts(options.prompts) if options.prompts is not None else []
    if options.output.exists() and not options.output.is_dir():
        raise ConfigError(f"--output {options.output}: it is a file; name a folder")
    check_model(options.target_config(MAX_TEXT_TOKENS), tokenizer=True)
    from drafthouse.engine.fingerprint import checkpoint_digest  # with torch, for which an error need not wait
    from drafthouse.engine.vocabulary import vocabulary_digest

    folder = model_path(options.target)
    vocabulary = vocabulary_digest(folder, options.trust_remote_code)
    with taken(options.output, FolderRecord(target=options.target, checkpoint=checkpoint_digest(folder), vocabulary=vocabulary)):
        text = _write_text(options, lines, console)
        console.print(f"{options.output}: {len(text):,} texts, {text.tokens:,} tokens, written in {text.seconds / 60:.1f} minutes")
        if options.training_seconds > 0:
            _train(options, text, console)


def _write_text(options: DistillOptions, lines: "Sequence[tuple[int, PromptLine]]", console: Console) -> "TextFolder":
    """The target's text, at least for its share of the time."""
    from drafthouse.distillation.text_folder import TextFolder
    from drafthouse.distillation.text_stage import needs_states

    text = TextFolder(options.output)
    hidden = needs_states(text, options.hidden)
    if text.seconds < options.text_seconds:
        _go_on_writing(options, lines, hidden, text.next_number, console)
        text.refresh()
    if not len(text):
        spent = f"the target wrote no whole text in {options.text_seconds:.0f} s"
        raise ConfigError(f"--minutes {options.minutes:g}: {spent}; give it more")
    return text


def _go_on_writing(options: DistillOptions, lines: "Sequence[tuple[int, PromptLine]]", hidden: bool, number: int, console: Console) -> None:
    from drafthouse.distillation.prompt_file import fitting
    from drafthouse.distillation.prompts import Prompts
    from drafthouse.distillation.seeds import shipped_seeds
    from drafthouse.distillation.text_stage import TextStage, Written
    from drafthouse.distillation.text_writer import LONGEST_PROMPT, TextWriter

    sequences, config = _fitting(options)
    model, encoder = _load(config, console)
    try:
        users = []
        if options.prompts is not None:
            users = fitting(options.prompts, lines, encoder, min(LONGEST_PROMPT, model.context // 2))
            if len(users) < len(lines):
                console.print(f"--prompts {options.prompts}: {len(lines) - len(users)} of {len(lines)} are too long and left out")
        prompts = Prompts(shipped_seeds(), users, options.seed, encoder.chat)
        writer = TextWriter(model, encoder, prompts, sequences, number, hidden)
        stage = TextStage(options.output, writer, options.seed)
        with _progress(console) as bar:
            before_s = stage.seconds
            task = bar.add_task("writing text", total=options.text_seconds, numbers="")

            def show(written: Written) -> None:
                rate = writer.written_tokens / max(written.seconds - before_s, 1e-3)
                numbers = f"{written.texts:,} texts, {written.tokens:,} tokens, {rate:,.0f} tokens/s"
                bar.update(task, completed=written.seconds, numbers=numbers)

            stage.run(options.text_seconds, show)
    finally:
        model.runner.close()


def _fitting(options: DistillOptions) -> tuple[int, ModelConfig]:
    """As many texts side by side as were asked for, or as memory holds."""
    from drafthouse.engine.loader import check_fit

    sequences = options.sequences
    while True:
        config = options.target_config(sequences * MAX_TEXT_TOKENS)
        try:
            check_fit(config)
            return sequences, config
        except ConfigError:
            if sequences <= LEAST_SEQUENCES:
                raise
            sequences //= 2


def _load(config: ModelConfig, console: Console) -> "tuple[LoadedModel, PromptEncoder]":
    import transformers
    from transformers import AutoTokenizer

    from deployments.gateway.chat_template import load_chat_template
    from deployments.gateway.model_metadata import load_metadata
    from drafthouse.checkpoints.model_path import model_path
    from drafthouse.distillation.prompt_encoder import PromptEncoder
    from drafthouse.engine.load_stages import LoadStages
    from drafthouse.engine.loader import load

    transformers.utils.logging.disable_progress_bar()
    tokenizer: Any
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path(config.path), trust_remote_code=config.trust_remote_code)
    except Exception as error:  # fault boundary: tokenizers raise errors of many kinds
        raise ModelError(f"{config.path}: its tokenizer cannot be read: {error}") from error
    template = load_chat_template(tokenizer)
    metadata = load_metadata(config, tokenizer.eos_token_id, "none")
    render = None if template.refusal else lambda messages: template.render(template.fit(messages))
    encoder = PromptEncoder(tokenizer, render, metadata.stop_tokens)
    with console.status(f"loading {config.path}") as status:
        model = load(config, LoadStages(lambda line: status.update(f"loading {config.path}: {line}")))
    return model, encoder


def _train(options: DistillOptions, text: "TextFolder", console: Console) -> None:
    """Raises ConfigError, ModelError."""
    import transformers

    from drafthouse.distillation.training import train

    transformers.utils.logging.disable_progress_bar()
    with _progress(console) as bar:
        task = bar.add_task("learning", total=options.training_seconds, numbers="")

        def show(training: "Training") -> None:
            agreement = "" if training.agreement is None else f", agreement {training.agreement.first:.3f}"
            numbers = f"{training.rows:,} tokens, {training.rows_per_s:,.0f} tokens/s, loss {training.loss:.3f}{agreement}"
            bar.update(task, total=training.budget.seconds, completed=training.budget.spent, numbers=numbers)

        result = train(options, text, show)
    levels = ", ".join(f"{level.greedy[0]:.3f}" for level in result.agreement.levels)
    console.print(
        f"{result.folder}: a draft of {result.layers} layers, {result.head_tokens:,} tokens in its head; agreement {levels} greedy, "
        f"{result.agreement.levels[0].sampled[0]:.3f} at temperature 1; {result.learned_rows:,} tokens in {result.seconds / 60:.1f} minutes"
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console)
