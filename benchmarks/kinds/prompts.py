"""The prompts of `bench kinds`: chats of six kinds, on subjects of their own, held out from what drafts learn from.

Promises: kinds take turns, so that any first few prompts are of all kinds alike. A fault of the file is a ConfigError that names it.
"""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.gateway.text_codec import TextCodec
from drafthouse.errors import ConfigError, RequestError

PROMPTS = pathlib.Path(__file__).with_name("prompts.json")


@dataclass(frozen=True, slots=True)
class KindPrompt:
    """One user turn and its ids, those of the chat template included."""

    kind: str
    text: str
    ids: tuple[int, ...]


def load_prompts(codec: TextCodec, file: pathlib.Path = PROMPTS) -> list[KindPrompt]:
    """Raises ConfigError where the target has no chat template."""
    try:
        return [
            KindPrompt(each["kind"], each["text"], tuple(codec.encode_chat([{"role": "user", "content": each["text"]}])))
            for each in json.loads(file.read_text(encoding="utf-8"))
        ]
    except RequestError as error:
        raise ConfigError(f"--target: the prompts are chats, and {error}") from error


def places(kinds: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of prompts by kind, in the order in which kinds come."""
    return {kind: [i for i, each in enumerate(kinds) if each == kind] for kind in dict.fromkeys(kinds)}
