"""All processors of one sequence, made from what its request asks for.

Promises: made from the same request and the same tokens, in whatever pieces those were committed, they say the same.
"""

from collections.abc import Sequence

from drafthouse.processors.edits import Edits
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.processors.penalties import Penalties
from drafthouse.processors.processor import LogitsProcessor, Path
from drafthouse.processors.thinking import Thinking
from drafthouse.processors.token_rules import AllowedTokens, BadWords, LogitBias, MinTokens
from drafthouse.sampling import SamplingParams


class SequenceProcessors(LogitsProcessor):
    """One after another; `Edits` has its own order."""

    def __init__(self, each: Sequence[LogitsProcessor]):
        self.each = tuple(each)
        self.grammar = next((one for one in self.each if isinstance(one, GrammarProcessor)), None)

    def without_grammar(self) -> "SequenceProcessors | None":
        """The others, if there are any."""
        others = [one for one in self.each if one is not self.grammar]
        return SequenceProcessors(others) if others else None

    def edit(self, edits: Edits, first: int, paths: Sequence[Path]) -> None:
        for processor in self.each:
            processor.edit(edits, first, paths)

    def commit(self, tokens: Sequence[int]) -> None:
        for processor in self.each:
            processor.commit(tokens)


def processors_of(
    sampling: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    stop_tokens: Sequence[int],
    vocab_size: int,
    further: Sequence[LogitsProcessor] = (),
) -> SequenceProcessors | None:
    """None where no row is to change: such a sequence pays nothing. `further` have seen `prompt` and `output` already."""
    each = list(further)
    if sampling.thinking is not None and sampling.thinking.closing < vocab_size:
        each.append(Thinking(sampling.thinking, output))
    if sampling.allowed_token_ids:
        each.append(AllowedTokens(sampling.allowed_token_ids, vocab_size))
    if sampling.logit_bias:
        each.append(LogitBias(sampling.logit_bias, vocab_size))
    if sampling.bad_words:
        each.append(BadWords(sampling.bad_words, [*prompt, *output], vocab_size))
    if sampling.min_tokens > len(output) and stop_tokens:
        each.append(MinTokens(sampling.min_tokens, stop_tokens, len(output), vocab_size))
    if sampling.penalises:
        each.append(Penalties(sampling, prompt, output))
    return SequenceProcessors(each) if each else None
