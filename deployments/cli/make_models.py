"""`drafthouse train-demo`, `drafthouse inflate` and `drafthouse build-trigram`: commands that make models."""

import pathlib
from typing import Annotated

import typer

from deployments.cli.options import errors


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
    draft: Annotated[str, typer.Option(help="The draft whose own output the table is made of: folder, hub id or demo:draft.")],
    output: Annotated[pathlib.Path, typer.Option(help="File to write; the draft's folder/trigram.npz is where stages look for it.")],
    tokens: Annotated[int, typer.Option(help="Tokens to sample.", min=1)] = 1_000_000,
) -> None:
    """Build the table of the trigram stage from text that the draft samples."""
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
