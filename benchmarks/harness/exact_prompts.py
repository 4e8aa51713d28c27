"""Prompts of exactly as many tokens as asked for, each with a beginning of its own.

Promises: a prompt begins with its number, so that no server has it, or more than its first tokens, in a cache; its text encodes to
exactly the tokens asked for, so that all servers can be given text. Prompts of one `body` differ in the number alone.
"""

from collections.abc import Callable, Iterator, Sequence

from drafthouse.errors import ConfigError

MAX_NUMBER = 99_999
LEAD_TOKENS = 16
"""Of a prompt to copy: what is repeated of the passage at its end, so that the model goes on with the rest."""

SLACK_TOKENS = 12
TRIES = 100

CHARACTERS = 8
"""More than a token or a word has, on average."""

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]


class ExactPrompts:
    def __init__(self, encode: Encode, decode: Decode, texts: Sequence[str]):
        """`texts` are the bodies: one runs on into the next where a prompt is longer."""
        self._encode, self._decode, self._texts = encode, decode, texts

    def plain(self, number: int, body: int, tokens: int) -> str:
        """Text to go on from. Raises ConfigError where no text is found that the tokenizer makes exactly `tokens` of."""
        words = self._text(body, tokens).split(" ")  # text cut after a token may encode to another number: then from a later word on
        starts = (" ".join(words[skip:]) for skip in range(TRIES))
        return self._exact(tokens, (self._decode(self._encode(_head(number) + text)[:tokens]) for text in starts))

    def copying(self, number: int, body: int, tokens: int) -> str:
        """A passage and its beginning once more: what comes next has stood there before. Raises ConfigError likewise."""
        head, text = _head(number), self._text(body, tokens)
        least = tokens - len(self._encode(head)) - LEAD_TOKENS - SLACK_TOKENS
        if least < 2 * LEAD_TOKENS:
            raise ConfigError(f"--prompt-tokens {tokens}: too few for a passage and its beginning again")
        ids = self._encode(text)
        leads = [self._decode(ids[: LEAD_TOKENS + more]) for more in range(SLACK_TOKENS)]
        passages = [self._decode(ids[: least + more]) for more in range(SLACK_TOKENS)]
        return self._exact(tokens, (f"{head}{passage}\n\n{lead}" for lead in leads for passage in passages))

    def _exact(self, tokens: int, candidates: Iterator[str]) -> str:
        for text in candidates:
            if len(self._encode(text)) == tokens:
                return text
        raise ConfigError(f"--prompt-tokens {tokens}: found no text that the tokenizer makes exactly this number of tokens of")

    def _text(self, body: int, tokens: int) -> str:
        """More of it than `tokens` and TRIES words are."""
        first = body % len(self._texts)
        return "\n".join([*self._texts[first:], *self._texts[:first]])[: (tokens + TRIES) * CHARACTERS]


def _head(number: int) -> str:
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"a prompt's number is at most {MAX_NUMBER}, not {number}")
    return f"{number:05d}\n"
