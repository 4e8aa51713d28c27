"""The paced server that a load bench starts, unless it is given a running one."""

import json
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.harness.paced_server import PacedPair, PacedServer, Sections
from benchmarks.harness.prompts import encode, encode_chats, load_texts, load_tokenizer
from benchmarks.load.client import Prompt
from drafthouse.checkpoints.model_path import model_path
from drafthouse.engine.curve_files import load_curve
from drafthouse.policy.latency import Curve

QUEUE = 4096
"""Requests that may wait: beyond saturation the queue grows, and none is to be refused."""


@dataclass(frozen=True)
class PacedSetup:
    """A paced server. Each sequence stands for `crowd` of them: the parts of both curves that grow with tokens are so many times
    as steep, so that a few sequences load the target as a full batch of a GPU does."""

    pair: PacedPair
    crowd: int
    sequences: int
    prompt_tokens: int

    def server(self, folder: pathlib.Path, more: Sections | None = None) -> PacedServer:
        """Not yet started; `folder` outlives it. `more` keys stand over ours. Raises ConfigError for a curve that cannot be read."""
        curves = {name: _write_curve(folder, name, c) for name, c in self.curves().items()}
        pair = replace(self.pair, target_curve=curves["target"], draft_curve=curves["draft"])
        sections: dict[str, Mapping[str, Any]] = {
            "gateway": {"max_ongoing_requests": QUEUE},
            "verifier": {"step_tokens": self.pair.step_tokens, "max_sequences": self.sequences, "max_queue": QUEUE},
            "drafter": {"prefill_tokens": self.pair.step_tokens, "max_sessions": QUEUE},
        }
        for section, keys in (more or {}).items():
            sections[section] = {**sections.get(section, {}), **keys}
        return PacedServer(pair, sections)

    def curves(self) -> dict[str, Curve]:
        loaded = {"target": load_curve(self.pair.target_curve), "draft": load_curve(self.pair.draft_curve)}
        return {
            name: replace(c, per_token_ms=c.per_token_ms * self.crowd, per_kv_token_ms=c.per_kv_token_ms * self.crowd)
            for name, c in loaded.items()
        }

    def prompts(self, path: pathlib.Path | None, count: int) -> list[Prompt]:
        """Token ids, but for chats cut so that a prompt passes the CPU in a few steps. Raises ConfigError naming the option."""
        tokenizer, texts = load_tokenizer(model_path(self.pair.target)), load_texts(path, count)
        return [*(encode_chats(tokenizer, texts) if self.pair.chats else encode(tokenizer, texts, self.prompt_tokens))]

    def settings(self) -> dict[str, Any]:
        return {**asdict(self.pair), "crowd": self.crowd, "sequences": self.sequences, "prompt_tokens": self.prompt_tokens,
                "curves": {name: asdict(c) for name, c in self.curves().items()}}  # fmt: skip


def _write_curve(folder: pathlib.Path, name: str, curve: Curve) -> str:
    path = folder / f"{name}-curve.json"
    path.write_text(json.dumps(asdict(curve)), encoding="utf-8")
    return str(path)
