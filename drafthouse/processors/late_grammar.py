"""A grammar that is still being compiled: until it is there nothing is said, and then all that it would have said.

For drafts alone, which need not wait: a target's text must.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.processors.edits import Edits
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.processors.processor import LogitsProcessor, Path


class LateGrammar(LogitsProcessor):
    def __init__(
        self, compiled: "Future[GrammarMatcher]", begin: Callable[[GrammarMatcher, Sequence[int]], GrammarProcessor], output: Sequence[int]
    ):
        """`begin` makes the processor of a matcher and of the output so far, which is `output` now."""
        self._compiled, self._begin, self._output = compiled, begin, list(output)
        self._processor: GrammarProcessor | None = None

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        if (processor := self._ready()) is not None:
            processor.edit(edits, first, paths)

    def commit(self, tokens: Sequence[int]) -> None:
        if self._processor is not None:
            self._processor.commit(tokens)
        else:
            self._output += tokens

    def chain(self, path: Path, most: int) -> list[int]:
        """As the grammar's."""
        processor = self._ready()
        return processor.chain(path, most) if processor is not None else []

    def _ready(self) -> GrammarProcessor | None:
        if self._processor is None and self._compiled.done() and self._compiled.exception() is None:
            self._processor = self._begin(self._compiled.result(), self._output)
            self._output = []
        return self._processor
