"""The server that a load bench runs against, and the check that it kept the curves' time.

Promises: a run in which more than 1 % of a pool's passes took the CPU longer than the curve allows
is void, whoever started the server.
"""

import json
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.harness.paced_server import PacedPair, PacedServer, Sections
from benchmarks.harness.prompts import encode, load_texts, load_tokenizer
from benchmarks.load.client import Prompt
from drafthouse.config.serving import model_path
from drafthouse.engine.curve_files import load_curve
from drafthouse.policy.latency import Curve

OVERRUN_LIMIT = 0.01
QUEUE = 4096
"""Requests that may wait: beyond saturation the queue grows, and none is to be refused."""

Totals = Mapping[str, Mapping[str, float]]


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
        """Token ids, cut so that a prompt passes the CPU in a few steps. Raises ConfigError naming the option."""
        tokenizer = load_tokenizer(model_path(self.pair.target))
        return [*encode(tokenizer, load_texts(path, count), self.prompt_tokens)]

    def settings(self) -> dict[str, Any]:
        return {**asdict(self.pair), "crowd": self.crowd, "sequences": self.sequences, "prompt_tokens": self.prompt_tokens,
                "curves": {name: asdict(c) for name, c in self.curves().items()}}  # fmt: skip


def _write_curve(folder: pathlib.Path, name: str, curve: Curve) -> str:
    path = folder / f"{name}-curve.json"
    path.write_text(json.dumps(asdict(curve)), encoding="utf-8")
    return str(path)


def overruns(after: Totals, before: Totals) -> dict[str, float]:
    """Share of each paced pool's passes that the CPU could not compute in the curve's time; no entry for a pool that is not paced."""
    shares = {}
    for role in ("verifier", "drafter"):
        steps, late = (after[role].get(name, 0.0) - before[role].get(name, 0.0) for name in ("paced_steps", "paced_overruns"))
        if steps:
            shares[role] = late / steps
    return shares


def is_void(shares: Mapping[str, float]) -> bool:
    return max(shares.values(), default=0.0) > OVERRUN_LIMIT
