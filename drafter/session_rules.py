"""What holds for all sessions of a drafter."""

from dataclasses import dataclass

from drafthouse.config.serving import WindowConfig


@dataclass(frozen=True, slots=True)
class SessionRules:
    """Tokens of context, children of a node for a session that asks for none, growth
    during verification (see `growth.GrowthThreshold`), the window of the draft's KV, and whether there is a draft model."""

    context: int
    width: int
    ahead: bool
    window: WindowConfig | None
    has_model: bool
