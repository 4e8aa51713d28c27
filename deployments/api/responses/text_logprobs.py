"""Logprobs of an answer's texts: of the tokens that each text is made of, and of no others.

Promises: they do not depend on how the tokens are split into deltas. Tokens of reasoning, calls and tags have no part in them, and neither
has what ends a text.
"""

from collections import deque

from deployments.api.openai.logprobs import ContentLogprob, chat_logprobs
from deployments.gateway.detokenizer import TokenBytes
from deployments.gateway.text_stream import TextDelta
from drafthouse.token_logprobs import TokenLogprob


class TextLogprobs:
    """`texts`: of each text of the answer, in order."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._untold = deque[tuple[int, TokenLogprob]]()
        self._in_text = False
        self._taken = list[int]()  # of each text, how many have been sent
        self.texts: list[list[ContentLogprob]] = []

    def add(self, delta: TextDelta) -> None:
        self._untold += zip(delta.tokens, delta.logprobs, strict=False)  # none where they are not wished for
        for count, content in delta.told:
            found = [self._untold.popleft() for _ in range(count)]
            if content:
                self._begin()
                tokens, logprobs = zip(*found, strict=True)
                self.texts[-1] += chat_logprobs(tokens, logprobs, self._token_bytes).content
            self._in_text = content

    def of(self, text: int | None) -> list[ContentLogprob]:
        """All that are known of the text that is the `text`-th. None: of what is no text."""
        return self.texts[text] if text is not None and text < len(self.texts) else []

    def take(self, text: int | None) -> list[ContentLogprob]:
        """Those that are new since it was asked last."""
        if text is None or text >= len(self.texts):
            return []
        new = self.texts[text][self._taken[text] :]
        self._taken[text] += len(new)
        return new

    def _begin(self) -> None:
        if not self._in_text:
            self.texts.append([])
            self._taken.append(0)
