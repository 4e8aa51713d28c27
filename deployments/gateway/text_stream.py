"""From a verifier's tokens to the client's text: detokenized, cut at stop strings, counted.

Promises: the text and the number of completion tokens depend on the tokens alone, not on how many
arrive together: a token after the one that completes a stop string does not count, and neither does a draft
accepted there. Exactly one delta, the last, has a finish reason: `stop` if and only if a stop token or a
stop string ended the text. The first delta leaves as soon as the first tokens arrive.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from deployments.gateway.detokenizer import Detokenizer, TokenBytes
from deployments.gateway.stop_matcher import StopMatcher
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.stop_tokens import cut_at_stop
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is new, and output tokens `first_token_index ...`; the text may lag behind them by held-back characters.

    `attempt` is the one whose verifier made them: 1, and one more each time that another took the request; `usage` is that of the
    output so far."""

    text: str
    tokens: tuple[int, ...]
    first_token_index: int
    attempt: int
    finish_reason: str = ""  # stop or length, in the last delta
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)


class _Text:
    """One output's text so far."""

    def __init__(self, token_bytes: TokenBytes, stops: tuple[str, ...], stop_tokens: tuple[int, ...]) -> None:
        self._detokenizer = Detokenizer(token_bytes)
        self._matcher = StopMatcher(stops)
        self._stop_tokens = frozenset(stop_tokens)
        self.stopped = False

    def add(self, tokens: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """The new text and the tokens up to the one that ended it, if one did. A stop token has no text."""
        tokens, self.stopped = cut_at_stop(tokens, self._stop_tokens)
        pieces: list[str] = []
        for count, token in enumerate(tokens[: len(tokens) - self.stopped], start=1):
            pieces.append(self._matcher.feed(self._detokenizer.add((token,))))
            if self._matcher.stopped:
                self.stopped = True
                return "".join(pieces), tokens[:count]
        return "".join(pieces), tokens

    def flush(self) -> str:
        """The end of the text; a character cut off by the end may still complete a stop string."""
        if self._matcher.stopped:
            return ""
        last = self._matcher.feed(self._detokenizer.flush())
        if self._matcher.stopped:
            self.stopped = True
            return last
        return last + self._matcher.flush()


async def generate_text(
    link: VerifierLink, token_bytes: TokenBytes, request: GenerateRequest, stops: tuple[str, ...], asked: list[str] | None = None
) -> AsyncGenerator[TextDelta, None]:
    """Closing it cancels the request; `asked` gets the name of each verifier that is. Raises what
    VerifierLink.generate raises."""
    text = _Text(token_bytes, stops, request.stop_tokens)
    usage = SpeculationUsage()
    async with aclosing(link.generate(request, asked)) as arrivals:
        async for replies in arrivals:
            pieces, tokens = [], list[int]()
            for reply in replies:
                piece, counted = text.add(reply.tokens)
                usage = usage_up_to(len(counted), usage, reply)
                pieces.append(piece)
                tokens += counted
                if text.stopped or reply.finish_reason:
                    pieces.append(text.flush())  # which may find the text stopped
                    reason = "stop" if text.stopped else reply.finish_reason
                    yield TextDelta("".join(pieces), tuple(tokens), replies[0].first_token_index, reply.attempt, reason, usage)
                    return
            yield TextDelta("".join(pieces), tuple(tokens), replies[0].first_token_index, reply.attempt, usage=usage)


def usage_up_to(tokens: int, before: SpeculationUsage, reply: GenerateReply) -> SpeculationUsage:
    """What the output has spent after the first `tokens` of this reply. `before` is that of the replies until now.

    A step's accepted drafts come before its bonus token, so as many of the first tokens are drafts as there were any.
    """
    if not reply.usage.steps:
        return before
    accepted = reply.usage.accepted - before.accepted
    if accepted <= tokens:
        return reply.usage
    return replace(reply.usage, accepted=before.accepted + tokens)
