"""What is compared on each kind of prompt: ways of drafting for one target, as serving configurations.

Promises: pure data. `plain` and its control are requests with speculation off on the engines of `lookup`, so no engine of a draft model
learns from them.
"""

from dataclasses import dataclass
from typing import Any

PLAIN, DRAFT, LOOKUP, HIDDEN, CONTROL, MERGED = "plain", "draft", "lookup", "hidden", "plain again", "merged"
"""In the order of turns: what shares an application stands apart, since its totals are read between two turns on it."""

MODEL: list[dict[str, Any]] = [{"kind": "model"}]
BESIDE_LOOKUP: list[dict[str, Any]] = [*MODEL, {"kind": "lookup", "placement": "verifier"}]

KV_TOKENS = 4096
"""Of each model; one stream needs less."""


@dataclass(frozen=True)
class Contest:
    """A target, and paths of its drafts, empty where there is none. `threads` are the target's, `draft_threads` a draft's."""

    target: str
    dtype: str
    threads: int
    draft: str = ""
    hidden: str = ""
    merged: str = ""
    draft_threads: int = 1

    @property
    def drafts(self) -> dict[str, str]:
        """Paths by the configurations that have a draft model."""
        paths = {DRAFT: self.draft, HIDDEN: self.hidden, MERGED: self.merged or self.hidden or self.draft}
        return {name: path for name, path in paths.items() if path}

    @property
    def names(self) -> tuple[str, ...]:
        without = (PLAIN, LOOKUP, CONTROL)
        return tuple(name for name in (PLAIN, DRAFT, LOOKUP, HIDDEN, CONTROL, MERGED) if name in without or name in self.drafts)

    @property
    def engines(self) -> tuple[str, ...]:
        """The configurations with engines of their own."""
        return (LOOKUP, *self.drafts)

    def config(self, name: str) -> dict[str, Any]:
        """Keys of the serving config of one with engines of its own."""
        common = {"dtype": self.dtype, "kv_tokens": KV_TOKENS, "prefix_cache": "off"}  # prompts repeat
        target = {"path": self.target, "threads": self.threads, **common}
        open_fields = {"gateway": {"sampling_defaults": "none"}}
        if name == LOOKUP:
            return {"model": "kinds", "target": target, "draft": None, **open_fields}
        draft = {"path": self.drafts[name], "threads": self.draft_threads, **common}
        stages = BESIDE_LOOKUP if name == MERGED else MODEL
        return {"model": "kinds", "target": target, "draft": draft, "drafter": {"stages": stages}, **open_fields}


def engines_of(name: str) -> str:
    """The configuration whose engines serve this one."""
    return LOOKUP if name in (PLAIN, CONTROL) else name


def mode_of(name: str) -> str:
    return "off" if name in (PLAIN, CONTROL) else "auto"
