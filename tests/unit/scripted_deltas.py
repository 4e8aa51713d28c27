"""The deltas of an output whose tokens come in any pieces, parsed as a chat's: no verifier, no stream between."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from deployments.gateway.output_format import OutputFormat
from deployments.gateway.text_stream import StopRule, TextDelta, generate_text
from deployments.parsers.registry import THINK_TAGS, TOOL_FORMATS
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.token_logprobs import LogprobsWish
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from tests.unit.byte_tokenizer import codec
from tests.unit.scoring_double import logprob_of

NAMES = frozenset({"weather", "time"})


def hermes(inside: bool = False) -> OutputFormat:
    """How outputs are read that may think and call."""
    return OutputFormat(codec().token_bytes, TOOL_FORMATS["hermes"], NAMES, False, THINK_TAGS["think"], inside)


REQUEST = GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, 4096, (0,), Speculation())


def split(text: str, cuts: Sequence[int]) -> list[tuple[int, ...]]:
    """The tokens of `text` in pieces."""
    ids = tuple(codec().encode(text))
    edges = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    return [ids[a:b] for a, b in zip(edges, edges[1:], strict=False)]


class ScriptedLink:
    """In place of a verifier link: says the pieces, and with the last one why it ends."""

    def __init__(self, pieces: Sequence[tuple[int, ...]], reason: str) -> None:
        self._pieces, self._reason = pieces, reason

    async def generate(self, request: GenerateRequest, asked: list[str] | None) -> AsyncGenerator[list[GenerateReply], None]:
        first = 0
        for i, piece in enumerate(self._pieces):
            reason = self._reason if i + 1 == len(self._pieces) else ""
            logprobs = () if request.logprobs.top is None else tuple(logprob_of(token, request.logprobs.top) for token in piece)
            yield [GenerateReply("r", 1, first, piece, reason, logprobs=logprobs)]
            first += len(piece)


def deltas_of(pieces: Sequence[tuple[int, ...]], format: OutputFormat, reason: str = "stop", top: int | None = None) -> list[TextDelta]:
    """`pieces`: at least one. `top`: logprobs, with as many beside each."""
    request = replace(REQUEST, logprobs=LogprobsWish(top))

    async def run() -> list[TextDelta]:
        link = ScriptedLink(pieces, reason)
        return [delta async for delta in generate_text(link, format.token_bytes, request, StopRule(), None, format.parser())]

    return asyncio.run(run())
