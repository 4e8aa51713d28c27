"""How a request wishes to speculate. Pure data."""

from dataclasses import dataclass

from drafthouse.errors import RequestError

SPECULATION_MODES = ("auto", "off", "fixed", "table")


@dataclass(frozen=True, slots=True)
class Speculation:
    """`auto` lets goodput decide, `off` never drafts, `fixed` waits for a tree of `nodes` nodes of at most `depth` with `width`
    children per node, `table` for a chain as long as `verifier.batch_table` says for the sequences in the step.

    `width` 1 is a chain, 0 the drafter's own width.
    """

    mode: str = "auto"
    nodes: int = 16
    depth: int = 8
    width: int = 0

    def check(self) -> None:
        """Raises RequestError naming the first field out of range."""
        if self.mode not in SPECULATION_MODES:
            raise RequestError(f"speculation.mode must be one of {', '.join(SPECULATION_MODES)}, not {self.mode!r}", "speculation.mode")
        for name, low, high in (("nodes", 1, 1024), ("depth", 1, 256), ("width", 0, 64)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(f"speculation.{name} must be between {low} and {high}, not {value}", f"speculation.{name}")

    @property
    def waits(self) -> bool:
        """Whether it has a tree of a set size to wait for, whatever goodput says."""
        return self.mode in ("fixed", "table")
