"""From a grammar's text to something that matches tokens, by llguidance.

Promises: thread-safe. What cannot be compiled is a GrammarError with the library's own words, and so is what its limits forbid: they
bound symbols, states and the library's own count of work at one token, not its time. The last ones compiled are kept, up to a number
and to a number of bytes. Nothing is fetched: a `$ref` goes within its schema.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from drafthouse.errors import RequestError
from drafthouse.grammars.matcher import GrammarMatcher, first_line
from drafthouse.sampling import JSON_FORM, Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

KEPT, KEPT_BYTES = 128, 1 << 22
"""Compiled grammars, and bytes of their texts."""

MOST_SYMBOLS, MOST_STATES = 100_000, 20_000
"""Of a grammar's rules, and of its lexer, at one or two kB each."""

MOST_ITEMS, MOST_FUEL = 10_000, 50_000
"""Of the parser and of the lexer for one mask: a fifth and a quarter of the library's own. 20 schemas with nested arrays, 400 optional
members or strings of 2,000 characters stay far below; the worst grammars known to pass take some 40 ms for a mask, and 0.6 s without."""

Tokenizer = Callable[[], str]
"""Gives the text of a tokenizer.json. Raises GrammarError."""


class GrammarError(RequestError):
    """The text is no grammar, or one that cannot be served."""

    def __init__(self, message: str):
        super().__init__(message, "grammar")


def no_tokenizer() -> str:
    """Of a model that has none."""
    raise GrammarError("the model has no tokenizer that grammars could be compiled for")


class GrammarCompiler:
    """For one tokenizer, which is read by `prepare`, or when the first grammar comes."""

    def __init__(self, tokenizer: Tokenizer = no_tokenizer, most_states: int = MOST_STATES, kept: int = KEPT, most_items: int = MOST_ITEMS):
        """`most_states`: of a lexer, counted as a text goes through it. `kept`: compiled grammars. `most_items`: of the parser, for
        one mask."""
        self._read, self._most = tokenizer, kept
        self._limits = LLParserLimits(
            max_grammar_size=MOST_SYMBOLS,
            max_lexer_states=most_states,
            step_max_items=most_items,
            step_lexer_fuel=MOST_FUEL,
            verbose_errors=False,
        )
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()  # of what is kept
        self._reading = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], GrammarMatcher] = OrderedDict()
        self._bytes = 0

    def prepare(self) -> None:
        """Reads the tokenizer, which holds all threads up for a second: before the first request. One that cannot be used is said to each
        request with a grammar."""
        with suppress(Exception):  # fault boundary: without grammars all else is served
            self._tokenizer_read()

    def _tokenizer_read(self) -> LLTokenizer:
        with self._reading:
            self._tokenizer = self._tokenizer or _read(self._read())
            return self._tokenizer

    def known(self, grammar: Grammar) -> GrammarMatcher | None:
        """A matcher at the beginning, if the grammar is kept: takes microseconds."""
        key = (grammar.kind, grammar.text)
        with self._lock:
            if (found := self._kept.get(key)) is None:
                return None
            self._kept.move_to_end(key)
        return found.copy()

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at the beginning. Takes milliseconds where it is not known; the library lets other threads run. Raises GrammarError."""
        if (found := self.known(grammar)) is not None:
            return found
        made = self._compile(grammar)
        self._keep(grammar, made)
        return made.copy()

    def _keep(self, grammar: Grammar, made: GrammarMatcher) -> None:
        with self._lock:
            key = (grammar.kind, grammar.text)
            if key not in self._kept:
                self._bytes += len(grammar.text)
            self._kept[key] = made
            while len(self._kept) > self._most or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
                (_, text), _ = self._kept.popitem(last=False)
                self._bytes -= len(text)

    def _compile(self, grammar: Grammar) -> GrammarMatcher:
        tokenizer = self._tokenizer_read()
        library = LLMatcher(tokenizer, library_text(grammar), log_level=0, limits=self._limits)
        if not library.is_error():
            library.compute_bitmask()  # its first states are made once, before it is copied
        if library.is_error():
            raise GrammarError(first_line(library.get_error()))
        made = GrammarMatcher(library, tokenizer.vocab_size, frozenset(tokenizer.eos_tokens))
        made.forced()  # no more than may be
        nothing = not made.allowed().any()
        if made.error or nothing:
            raise GrammarError(made.error or "no text but the empty one fits it")
        return made


def library_text(grammar: Grammar) -> str:
    """The library's own form. Raises GrammarError for a schema that is no JSON object."""
    match grammar.kind:
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.text)
    try:
        if not isinstance(json.loads(grammar.text), dict):
            raise GrammarError("a JSON schema must be an object")
        return LLMatcher.grammar_from_json_schema(grammar.text, overrides=cast("JsonCompileOptions", JSON_FORM))
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"no JSON schema: {first_line(str(error)) or type(error).__name__}") from error


def _read(text: str) -> LLTokenizer:
    try:
        tokenizer = LLTokenizer(text)
        return tokenizer.with_slices(LLTokenizer.json_slices())
    except ValueError as error:
        raise GrammarError(f"no grammar can be compiled for the model's tokenizer: {first_line(str(error))}") from error
