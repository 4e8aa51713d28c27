"""What a request asks of sampling. Pure data: `drafthouse.choose` and `drafthouse.processors` apply it to logits."""

from dataclasses import dataclass
from typing import Literal

from drafthouse.errors import RequestError

MAX_SEED = (1 << 63) - 1
GREEDY_BELOW = 1e-5
"""Temperatures below it would overflow float32 logits, and no sampled token could differ but at a near-tie."""

MAX_BIAS = 100.0
MAX_BIASED = 1024
MAX_BAD_TOKENS = 1 << 14
MAX_BAD_WORDS = 2048
MAX_BAD_WORD_TOKENS = 256
MAX_ALLOWED = 1 << 20
"""Ids, words and tokens that one request may name: each costs time at every row."""


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """At most `tokens` of reasoning between the tokens `opening` and `closing`. `inside`: the prompt ends after the opening one."""

    tokens: int
    opening: int
    closing: int
    inside: bool


MAX_GRAMMAR_BYTES = 1 << 17
"""Of one grammar's text."""

GRAMMAR_KINDS = ("json_schema", "regex", "lark")

JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Of all JSON that a grammar describes, in llguidance's words: as json.dumps writes it, which is what most models were shown, with one
space after a comma and a colon and none elsewhere. So separators are forced, and no model can lose itself in white space."""


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning that may come before a grammar, between the tokens `opening` and `closing`. `inside`: the prompt ends after the opening
    one; otherwise the first token of the output may be it."""

    opening: int
    closing: int
    inside: bool


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must be: `text` is a JSON schema, a regular expression or a grammar in Lark, by `kind`."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    thought: Thought | None = None

    def check(self) -> None:
        """Raises RequestError for a text that is empty or too long, and for a kind that there is none of."""
        if self.kind not in GRAMMAR_KINDS:
            raise RequestError(f"a grammar is {' or '.join(GRAMMAR_KINDS)}, not {self.kind[:40]!r}", "grammar")
        size = len(self.text.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= MAX_GRAMMAR_BYTES:
            raise RequestError(f"a grammar has 1 to {MAX_GRAMMAR_BYTES} bytes, not {size}", "grammar")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Applied in this order: grammar, allowed ids, bias, bad words, min tokens, repetition, frequency and presence penalty, temperature,
    top-k, top-p, min-p, noise.

    temperature 0, or below GREEDY_BELOW, is greedy. top_k 0, top_p 1, min_p 0, repetition_penalty 1 and 0 or nothing for the others
    switch a step off; top_p 0 keeps the best token alone. The repetition penalty counts prompt and output, the other two
    the output. `bad_words` are runs of tokens that are not to stand anywhere in the text.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    thinking: ThinkingBudget | None = None
    grammar: Grammar | None = None

    def check(self) -> None:
        """Raises RequestError naming the first field out of range."""
        limits = {
            "temperature": (0.0 <= self.temperature <= 100.0, "between 0 and 100"),
            "top_k": (0 <= self.top_k < 1 << 31, "0 (off) or a positive integer"),
            "top_p": (0.0 <= self.top_p <= 1.0, "between 0 and 1"),
            "min_p": (0.0 <= self.min_p <= 1.0, "between 0 and 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100.0, "between 0.01 and 100"),
            "presence_penalty": (-2.0 <= self.presence_penalty <= 2.0, "between -2 and 2"),
            "frequency_penalty": (-2.0 <= self.frequency_penalty <= 2.0, "between -2 and 2"),
            "min_tokens": (0 <= self.min_tokens < 1 << 31, "0 (off) or a positive integer"),
        }
        for name, (good, wanted) in limits.items():
            if not good:  # a NaN fails every comparison
                raise RequestError(f"{name} must be {wanted}, not {getattr(self, name)}", name)
        self._check_lists()

    def _check_lists(self) -> None:
        if self.grammar is not None:
            self.grammar.check()
        if self.grammar is not None and self.allowed_token_ids:
            raise RequestError("a grammar and allowed_token_ids exclude each other; send one", "allowed_token_ids")
        if self.thinking is not None and self.allowed_token_ids:
            raise RequestError("thinking_token_budget and allowed_token_ids exclude each other; send one", "thinking_token_budget")
        for token, bias in self.logit_bias:
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                raise RequestError(f"logit_bias of token {token} must be between -100 and 100, not {bias}", "logit_bias")
        for name, most in (("logit_bias", MAX_BIASED), ("allowed_token_ids", MAX_ALLOWED), ("bad_words", MAX_BAD_WORDS)):
            if len(getattr(self, name)) > most:
                raise RequestError(f"{name} has {len(getattr(self, name))} entries, the limit is {most}", name)
        if len({token for token, _ in self.logit_bias}) < len(self.logit_bias):
            raise RequestError("logit_bias names a token twice", "logit_bias")
        if sum(map(len, self.bad_words)) > MAX_BAD_TOKENS:
            raise RequestError(f"bad_words has more than {MAX_BAD_TOKENS} tokens in all", "bad_words")
        if not all(1 <= len(word) <= MAX_BAD_WORD_TOKENS for word in self.bad_words):
            raise RequestError(f"a bad word has 1 to {MAX_BAD_WORD_TOKENS} tokens", "bad_words")

    def check_ids(self, vocab_size: int) -> None:
        """Raises RequestError naming the field that holds an id outside the vocabulary."""
        named = {
            "logit_bias": [token for token, _ in self.logit_bias],
            "allowed_token_ids": self.allowed_token_ids,
            "bad_words": [token for word in self.bad_words for token in word],
            "thinking_token_budget": [self.thinking.opening, self.thinking.closing] if self.thinking is not None else [],
            "grammar": [self.grammar.thought.opening, self.grammar.thought.closing] if self.grammar and self.grammar.thought else [],
        }
        for name, ids in named.items():
            outside = next((token for token in ids if not 0 <= token < vocab_size), None)
            if outside is not None:
                raise RequestError(f"{name} has token id {outside}, outside the vocabulary of {vocab_size}", name)

    @property
    def listed(self) -> int:
        """Numbers in its lists: what it weighs on the wire beyond a few bytes."""
        written = len(self.grammar.text) if self.grammar is not None else 0
        return len(self.allowed_token_ids) + 4 * len(self.logit_bias) + sum(len(word) + 2 for word in self.bad_words) + written

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def filters(self) -> bool:
        return not self.greedy and (self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0)

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
