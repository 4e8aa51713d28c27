"""`drafthouse train-demo`, `drafthouse inflate` and `drafthouse build-trigram`: commands that make models."""

import pathlib
from typing import Annotated

import typer

from deployments.cli.options import errors, fail
from drafthouse.errors import ConfigError


def train_demo(
    output: Annotated[
        pathlib.Path, typer.Option(help="Folder to write target/, draft/, the model card and the prompts to.")
    ] = pathlib.Path("demo-models"),
    target_steps: Annotated[int, typer.Option(help="Optimiser steps of the target.", min=3)] = 1400,
    draft_steps: Annotated[int, typer.Option(help="Optimiser steps of the draft's distillation.", min=3)] = 1200,
    threads: Annotated[int | None, typer.Option(help="torch threads; by default one for each core.", min=1)] = None,
    finish: Annotated[
        pathlib.Path | None,
        typer.Option(help="Train nothing: take target/ and draft/ in float32 from this folder (of a run of these steps) and do the rest."),
    ] = None,
) -> None:
    """Train the demo pair from the Python sources on this machine; takes hours on two cores."""
    from drafthouse.demo_models import command

    if finish is None:
        command.use_large_pages()
        command.train(output, target_steps, draft_steps, threads)
        return
    with errors():
        command.finish(finish, output, target_steps, draft_steps, threads)


def inflate(
    source: Annotated[pathlib.Path, typer.Argument(help="Folder of the checkpoint to expand, or demo:target.")],
    destination: Annotated[pathlib.Path, typer.Argument(help="Folder to write.")],
    hidden: Annotated[int, typer.Option(help="Hidden size of the result.", min=1)],
    layers: Annotated[int, typer.Option(help="Layers of the result.", min=1)],
) -> None:
    """Expand a checkpoint in width and depth without changing its logits, to make a small model cost what a large one does."""
    from drafthouse.checkpoints.model_path import model_path
    from drafthouse.demo_models.inflate import inflate as expand

    with errors():
        expand(pathlib.Path(model_path(str(source))), destination, hidden, layers)
    typer.echo(f"{destination}: inflated from {source} to hidden size {hidden} and {layers} layers")


def build_trigram(
    output: Annotated[pathlib.Path, typer.Option(help="File to write; the draft's folder/trigram.npz is where stages look for it.")],
    draft: Annotated[str | None, typer.Option(help="The draft whose own output it is made of: folder, hub id or demo:draft.")] = None,
    text: Annotated[
        pathlib.Path | None,
        typer.Option(help="In place of --draft: a folder of `drafthouse distill`, for the target's text in it."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to sample, or to take of the text at most.", min=1)] = 1_000_000,
) -> None:
    """Build the table of the trigram stage from text that the draft samples, or that a target wrote to distil one."""
    if (draft is None) == (text is None):
        fail("--draft, --text: give one of them")
    if text is not None:
        _trigram_of_text(text, output, tokens)
        return
    assert draft is not None
    from rich.progress import Progress

    from drafthouse.checkpoints.model_folder import check_model
    from drafthouse.config.serving import ModelConfig

    with errors():
        check_model(ModelConfig(path=draft))  # a GGUF file is converted here, under a progress bar of its own
        from drafthouse.stages.trigram_building import build  # with torch and transformers, for which an error need not wait

        with Progress() as bar:
            task = bar.add_task("sampling", total=tokens)
            sampled, size = build(draft, output, tokens, lambda done: bar.update(task, completed=done))
    typer.echo(f"{output}: {size:,} bytes from {sampled:,} tokens of {draft}")


def _trigram_of_text(folder: pathlib.Path, output: pathlib.Path, tokens: int) -> None:
    """Of what the target said after each prompt, with the prompt's last two tokens, which are the first context."""
    with errors():
        from drafthouse.distillation.text_folder import SHARDS, TextFolder
        from drafthouse.stages.trigram_building import write

        texts, taken = [], 0
        for text in TextFolder(folder).training():
            said = text.tokens[max(0, text.prompt_len - 2) :]
            if taken + len(said) > tokens:
                break
            texts.append(said)
            taken += len(said)
        if not texts:
            raise ConfigError(f"--text {folder}: no text in its folder {SHARDS}; `drafthouse distill` writes it")
        size = write(output, texts)
    typer.echo(f"{output}: {size:,} bytes from {taken:,} tokens of {folder}")
