"""Options that several benchmarks share."""

import pathlib
from typing import Annotated

import typer

Target = Annotated[str, typer.Option(help="Target: folder, hub id or demo:target.")]
Draft = Annotated[str, typer.Option(help="Draft: folder, hub id or demo:draft.")]
Prompts = Annotated[int, typer.Option(help="Prompts, spread over those there are.", min=1)]
Tokens = Annotated[int, typer.Option(help="New tokens after each prompt.", min=2)]
Rounds = Annotated[int, typer.Option(help="Times that everything is run.", min=1)]
PromptsFile = Annotated[
    pathlib.Path | None, typer.Option(help="JSON list of texts, or of objects with text. Default: held-out prompts of the package.")
]
Threads = Annotated[int, typer.Option(help="torch threads of each replica.", min=1)]
StepTokens = Annotated[int, typer.Option(help="Tokens of one step at most, prompt chunks and trees.", min=16)]
Chats = Annotated[bool, typer.Option("--chats", help="Prompts are what users say: through the target's chat template, none of them cut.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, float64 or int8, of target and draft.")]
PromptTokens = Annotated[int, typer.Option(help="Prompts are cut to their last so many tokens.", min=1)]
