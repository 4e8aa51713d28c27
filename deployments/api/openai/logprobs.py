"""Log-probabilities in the shapes of OpenAI's chat and completions, and of vLLM's `prompt_logprobs`.

Promises: as many entries as tokens of the output, a stop token's own among them. A token that could not be chosen has LEAST, since JSON
has no infinity. A token whose bytes are no whole characters is called `bytes:` and them, so that no two tokens have one name.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from deployments.gateway.detokenizer import Detokenizer, TokenBytes
from drafthouse.token_logprobs import TokenLogprob

LEAST = -9999.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TopLogprob(_Part):
    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Part):
    content: list[ContentLogprob]
    refusal: None = None


class CompletionLogprobs(_Part):
    """`text_offset` counts characters of the choice's text. The first token of an echoed prompt has no logprob."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptLogprob(_Part):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""By prompt token: the token itself and the likeliest in its place, by id. None for the first one."""


def name_of(token: int, token_bytes: TokenBytes) -> str:
    data = token_bytes.label(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokens: Sequence[int], found: Sequence[TokenLogprob], token_bytes: TokenBytes) -> ChatLogprobs:
    content = []
    for token, each in zip(tokens, found, strict=True):
        best = [_top(token, value, token_bytes) for token, value in zip(each.top_ids, each.top_logprobs, strict=True)]
        content.append(ContentLogprob(**_top(token, each.logprob, token_bytes).model_dump(), top_logprobs=best))
    return ChatLogprobs(content=content, refusal=None)


def _top(token: int, logprob: float, token_bytes: TokenBytes) -> TopLogprob:
    return TopLogprob(token=name_of(token, token_bytes), logprob=max(LEAST, logprob), bytes=list(token_bytes.label(token)))


class CompletionTokens:
    """One choice's tokens as they come, each with where its text begins."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes, self._detokenizer, self._offset = token_bytes, Detokenizer(token_bytes), 0

    def logprobs(self, tokens: Sequence[int], found: Sequence[TokenLogprob | None]) -> CompletionLogprobs:
        """Of the next tokens."""
        names, offsets = [name_of(token, self._token_bytes) for token in tokens], []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.add((token,)))
        best = [self._best(name, each) for name, each in zip(names, found, strict=True)]
        values = [None if each is None else max(LEAST, each.logprob) for each in found]
        return CompletionLogprobs(tokens=names, token_logprobs=values, top_logprobs=best, text_offset=offsets)

    def _best(self, name: str, each: TokenLogprob | None) -> dict[str, float] | None:
        """The likeliest, and the token itself, as OpenAI has it: at most one more than was asked for."""
        if each is None:
            return None
        top = zip(each.top_ids, each.top_logprobs, strict=True)
        return {name_of(token, self._token_bytes): max(LEAST, value) for token, value in top} | {name: max(LEAST, each.logprob)}


def prompt_logprobs(tokens: Sequence[int], found: Sequence[TokenLogprob], token_bytes: TokenBytes) -> PromptLogprobs:
    entries: PromptLogprobs = [None]
    for token, each in zip(tokens[1:], found, strict=True):
        ranked = [(token, each.logprob, each.rank)]
        ranked += [(top, value, rank) for rank, (top, value) in enumerate(zip(each.top_ids, each.top_logprobs, strict=True), start=1)]
        entries.append(
            {
                str(at): PromptLogprob(logprob=max(LEAST, value), rank=rank, decoded_token=name_of(at, token_bytes))
                for at, value, rank in reversed(ranked)
            }
        )
    return entries


def joined(first: CompletionLogprobs | None, second: CompletionLogprobs | None) -> CompletionLogprobs | None:
    """None where they are not asked for."""
    if first is None or second is None:
        return None
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=(first.top_logprobs or []) + (second.top_logprobs or []),
        text_offset=first.text_offset + second.text_offset,
    )
