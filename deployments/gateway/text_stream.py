"""From a verifier's tokens to the client's text: detokenized, cut at stop strings, parsed, counted.

Promises: the text and the number of completion tokens depend on the tokens alone, not on how many
arrive together: a token after the one that completes a stop string does not count, and neither does a draft
accepted there. Exactly one delta, the last, has a finish reason: `stop` if and only if a stop token or a
stop string ended the text, `tool_calls` in place of it where the text has calls and did not end within one.
The first delta leaves as soon as the first tokens arrive. The tokens of a trace are those that count.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from deployments.gateway.detokenizer import Detokenizer, TokenBytes
from deployments.gateway.stop_matcher import StopMatcher
from deployments.gateway.verifier_link import VerifierLink
from deployments.parsers.output_parser import OutputParser
from deployments.parsers.parsed import CallDelta, Parsed
from drafthouse.stop_tokens import cut_at_stop
from drafthouse.token_logprobs import TokenLogprob
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage
from drafthouse.wire.step_trace import StepTrace


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is new, and output tokens `first_token_index ...`; the text may lag behind them by held-back characters.

    `text` is content; reasoning and calls are beside it where the output is parsed for them. `reasoning_tokens`: from the one that
    completes the opening tag of reasoning to the one that completes the closing tag. `attempt` is the one whose verifier made them: 1,
    and one more each time that another took the request; `usage` is that of the output so far. `accepted`: drafts accepted by each of the
    steps that verified any. `stop_string`: the one that ended the text, in the last delta. `told`, where logprobs are
    wished for: pairs (count, content), each about the next `count` tokens of the output. They are tokens of content (True), or of
    reasoning, calls and tags (False). `trace`: of the steps that made these tokens, where it is asked for."""

    text: str
    tokens: tuple[int, ...]
    first_token_index: int
    attempt: int
    finish_reason: str = ""  # stop, length or tool_calls, in the last delta
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    reasoning_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    accepted: tuple[int, ...] = ()
    stop_string: str = ""
    told: tuple[tuple[int, bool], ...] = ()
    trace: tuple[StepTrace, ...] = ()


@dataclass(frozen=True, slots=True)
class StopRule:
    """Strings that end a text. `include`: they, and stop tokens, stand in it. The text of the first `min_tokens` tokens has none."""

    strings: tuple[str, ...] = ()
    include: bool = False
    min_tokens: int = 0


class _Text:
    """One output's text so far. `reasoning_tokens`: of all its tokens."""

    def __init__(self, token_bytes: TokenBytes, stops: StopRule, stop_tokens: tuple[int, ...], parser: OutputParser | None = None) -> None:
        self._detokenizer = Detokenizer(token_bytes)
        self._matcher = StopMatcher(stops.strings, stops.include)
        self._stop_tokens, self._include = frozenset(stop_tokens), stops.include
        self._unwatched = stops.min_tokens  # tokens still to come whose text is not looked at
        self._parser = parser
        self.stopped = False
        self.reasoning_tokens = 0
        self._aside = False  # the last token was one of reasoning or of a call
        self._untold = 0
        self._told: list[tuple[int, bool]] = []

    def add(self, tokens: tuple[int, ...]) -> tuple[Parsed, tuple[int, ...]]:
        """The new text and the tokens up to the one that ended it, if one did. A stop token has no text unless it is included."""
        tokens, self.stopped = cut_at_stop(tokens, self._stop_tokens)
        pieces: list[Parsed | str] = []
        for count, token in enumerate(tokens if self._include else tokens[: len(tokens) - self.stopped], start=1):
            piece = self._detokenizer.add((token,))
            self._unwatched -= 1
            pieces.append(self._parsed(piece if self._unwatched >= 0 else self._matcher.feed(piece)))
            self._tell(pieces[-1])
            if self._matcher.stopped or (self._parser is not None and self._parser.ended):
                self.stopped = True
                return joined(pieces), tokens[:count]
        return joined(pieces), tokens

    @property
    def stop_string(self) -> str:
        """The one that ended the text, if one did."""
        return self._matcher.found

    def flush(self) -> Parsed:
        """The end of the text; a character cut off by the end may still complete a stop string."""
        last = self._flushed()
        parsed = Parsed(last) if self._parser is None else self._parser.feed(last) + self._parser.flush()
        if parsed.content and self._untold:
            self._told.append((self._untold, True))
        return parsed

    def take_told(self) -> tuple[tuple[int, bool], ...]:
        """What is certain of tokens by now, and was not taken yet."""
        told, self._told = tuple(self._told), []
        return told

    def _tell(self, piece: Parsed | str) -> None:
        """What is held back does not say yet whose its tokens are."""
        self._untold += 1
        content = piece if isinstance(piece, str) else piece.content
        if content or (isinstance(piece, Parsed) and (piece.calls or self._aside)):
            self._told.append((self._untold, bool(content)))
            self._untold = 0

    def reason(self, reason: str) -> str:
        """The client's finish reason, where the verifier's is `reason`."""
        if not self.stopped and reason != "stop":
            return reason
        return "tool_calls" if self._parser is not None and self._parser.called and not self._parser.cut else "stop"

    def _flushed(self) -> str:
        if self._matcher.stopped:
            return ""
        last = self._matcher.feed(self._detokenizer.flush())
        if self._matcher.stopped:
            self.stopped = True
            return last
        return last + self._matcher.flush()

    def _parsed(self, text: str) -> Parsed | str:
        """What a token's text adds. Counts the token if it is one of reasoning."""
        if self._parser is None:
            return text
        thought, aside = self._parser.thinks, self._parser.aside
        parsed = self._parser.feed(text)
        self.reasoning_tokens += thought or self._parser.thinks
        self._aside = aside or self._parser.aside
        return parsed


def joined(pieces: Sequence[Parsed | str]) -> Parsed:
    """Outputs that are not parsed come as strings: their tokens cost no object each."""
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return sum((piece for piece in pieces if isinstance(piece, Parsed)), Parsed("".join(texts)))


async def generate_text(
    link: VerifierLink,
    token_bytes: TokenBytes,
    request: GenerateRequest,
    stops: StopRule,
    asked: list[str] | None = None,
    parser: OutputParser | None = None,
) -> AsyncGenerator[TextDelta, None]:
    """Closing it cancels the request; `asked` gets the name of each verifier that is. Raises what
    VerifierLink.generate raises."""
    text = _Text(token_bytes, stops, request.stop_tokens, parser)
    usage = SpeculationUsage()
    thought, tells = 0, request.logprobs.top is not None
    async with aclosing(link.generate(request, asked)) as arrivals:
        async for replies in arrivals:
            parsed, tokens, reason = Parsed(), list[int](), ""
            logprobs, prompt_logprobs = list[TokenLogprob](), list[TokenLogprob]()
            accepted, trace = list[int](), list[StepTrace]()
            for reply in replies:
                piece, counted = text.add(reply.tokens)
                before, usage = usage, usage_up_to(len(counted), usage, reply)
                accepted += [usage.accepted - before.accepted] if usage.verified > before.verified else []
                parsed += piece
                tokens += counted
                logprobs += reply.logprobs[: len(counted)]
                prompt_logprobs += reply.prompt_logprobs
                if reply.trace is not None and request.trace:
                    trace.append(replace(reply.trace.cut(len(counted)), time=time.time()))
                if text.stopped or reply.finish_reason:
                    parsed += text.flush()  # which may find the text stopped
                    reason = text.reason(reply.finish_reason)
                    break
            thought, known = text.reasoning_tokens, thought
            yield TextDelta(
                parsed.content, tuple(tokens), replies[0].first_token_index, reply.attempt, reason, usage, parsed.reasoning,
                parsed.calls, thought - known,
                tuple(logprobs), tuple(prompt_logprobs), tuple(accepted), text.stop_string,
                text.take_told() if tells else (), tuple(trace),
            )  # fmt: skip
            if reason:
                return


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
