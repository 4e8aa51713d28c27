"""A verifier's double that tells of its steps: each drafts what comes of it and one token beside each, and accepts all but the last."""

from dataclasses import replace

from drafthouse.config.serving import SOURCE_KINDS
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.step_trace import StepTimes, StepTrace, TracedNode
from tests.unit.verifier_double import Drafting

WRONG = 399
"""Drafted beside each right token."""

LOOKUP, MODEL = SOURCE_KINDS.index("lookup"), SOURCE_KINDS.index("model")


def trace_of(tokens: tuple[int, ...], index: int = 0, base_len: int = 0, attempt: int = 1, step: int = 0) -> StepTrace:
    """Accepted nodes have even numbers, and are by turns of the lookup and of the model."""
    nodes = list[TracedNode]()
    for i, token in enumerate(tokens[:-1]):
        above = 2 * (i - 1) if i else -1
        nodes.append(TracedNode(token, above, 0.5, 0.5 ** (i + 1), (LOOKUP, MODEL)[i % 2], True, tokens[i + 1]))
        nodes.append(TracedNode(WRONG, above, 0.25, 0.25 * 0.5**i, MODEL))
    accepted = tuple(range(0, len(nodes), 2))
    return StepTrace(step, attempt, base_len, index, tokens, tuple(nodes), accepted, 0.125, StepTimes(0.5, 0.25, 0.375), 3)


class Tracing(Drafting):
    """Each reply is one step's, and tells of it to those who ask."""

    def reply(self, request: GenerateRequest, index: int, output: tuple[int, ...]) -> GenerateReply:
        plain = super().reply(request, index, output)
        if not request.trace:
            return plain
        step = (index - len(request.delivered)) // self.step
        return replace(plain, trace=trace_of(plain.tokens, index, len(request.prompt) + index, request.attempt, step))
