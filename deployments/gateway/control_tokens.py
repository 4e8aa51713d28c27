"""Control tokens in chats: those that the template writes are tokens, those in a client's text are text.

Promises: no string of a message becomes a control token, however the template joins it to others or to its own text. A
chat without a control token in its strings is encoded as the tokenizer itself encodes what the template made.
docs/chat.md says which tokens are control tokens, and what else was weighed.
"""

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from drafthouse.errors import ModelError, RequestError

PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE), range(0xE000, 0xF900))
"""The last are the ones that texts use, for icons."""

JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')

NOT_TEXT = ("role", "type")
"""Keys of messages, parts and tools whose values are not a client's own words: the schema lists what they may be."""

FREE = ("arguments", "parameters")
"""Keys of calls and tools under which a client may write what it likes, keys included."""

SCHEMA_WORDS = frozenset({
    "type", "properties", "required", "description", "title", "items", "enum", "const", "default", "format", "pattern", "anyOf", "allOf",
    "oneOf", "not", "additionalProperties", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "$ref", "$defs",
    "object", "string", "number", "integer", "boolean", "array", "null", "function", "name",
})  # fmt: skip
"""JSON Schema's own: templates look for them."""


class Marks(NamedTuple):
    """Two characters that stand nowhere in a request's strings."""

    opening: str
    closing: str


class ControlTokens:
    """`shown` are those that a text of the model's own may have: what the detokenizer does not leave out."""

    def __init__(self, literals: Collection[str], shown: Collection[str], backend: Tokenizer, unknown: int | None = None) -> None:
        """`unknown`: the id of what is in no vocabulary, which any text may have."""
        names = secrets.token_hex(16)
        self._names = {literal: f"<{names}.{i}>" for i, literal in enumerate(sorted(literals))}
        self._encoder = renamed(backend, self._names)
        self._backend = backend
        self._ids = {backend.token_to_id(literal) for literal in literals} - {unknown}
        self._any = re.compile(any_of(literals))
        self._hidden = re.compile(any_of(set(literals) - set(shown)))
        self._joined = "\n".join(literals)
        self._longest = max(map(len, literals), default=0)
        self._heads = {literal[:size] for literal in literals for size in range(1, len(literal))}
        self._tails = {literal[size:] for literal in literals for size in range(1, len(literal))}

    def mark(self, messages: Sequence[dict[str, Any]]) -> tuple[Sequence[dict[str, Any]], Marks | None]:
        """The messages with marks around each control token in their strings, and around strings that may become part of one
        beside others; as they are and no marks where there is nothing of the kind."""
        if not any(self._suspect(text, message["role"]) for message in messages for text in strings_of(message)):
            return messages, None
        marks = unused_marks(text for message in messages for text in strings_of(message))
        return [mapped(message, partial(self._marked, message["role"], marks)) for message in messages], marks

    def stands_in(self, value: Any) -> bool:
        """Whether a string in `value`, a key included, has a control token, or could be part of one and is no word."""
        return any(self._any.search(text) or (not text.isidentifier() and self._joins(text)) for text in strings_of(value, free=True))

    def encode(self, prompt: str, marked: str, marks: Marks | None) -> list[int]:
        """The ids of `prompt`, which the template made of the messages as they are, and `marked` of those with marks.

        They are the tokenizer's own unless it finds control tokens that the template has not written. Then a copy of it
        encodes, to which the template's have secret names, so that all others are text. Raises RequestError where the
        tokenizer does not find the template's own either.
        """
        for mark in marks or ():  # a template that writes a container writes its strings escaped
            for written in (repr(mark)[1:-1], json.dumps(mark)[1:-1]):
                marked = marked.replace(written, mark)
        disguised, own = self.disguise(marked, marks)
        ids = encode(self._backend, prompt, add_special_tokens=False)
        if len(self._any.findall(prompt)) == own and self._count(ids) <= own:
            return ids
        ids = encode(self._encoder, disguised, add_special_tokens=False)
        if self._count(ids) != own:
            reason = "the model's tokenizer cannot tell control tokens in them from those of its chat template; leave them out"
            raise RequestError(f"messages: {reason}", "messages")
        return ids

    def disguise(self, marked: str, marks: Marks | None) -> tuple[str, int]:
        """The prompt without marks, in which the template's control tokens have their secret names, and the number of these."""
        if marks is None:
            return self._any.subn(self._name, marked)
        opening, closing = marks
        pieces = re.split(f"{opening}([^{opening}{closing}]*){closing}|[{opening}{closing}]", marked)
        own = [self._any.subn(self._name, piece) for piece in pieces[::2]]
        texts = chain.from_iterable(zip((text for text, _ in own), [*pieces[1::2], ""], strict=True))
        return "".join(text or "" for text in texts), sum(count for _, count in own)

    def _count(self, ids: Iterable[int]) -> int:
        return sum(token in self._ids for token in ids)

    def _name(self, found: re.Match[str]) -> str:
        return self._names[found[0]]

    def _forged(self, role: str) -> re.Pattern[str]:
        """What is text in this role's strings: what the assistant has shown, it may be shown again."""
        return self._hidden if role == "assistant" else self._any

    def _suspect(self, text: str, role: str) -> bool:
        return self._forged(role).search(text) is not None or self._joins(text)

    def _joins(self, text: str) -> bool:
        """Whether the text could become part of a control token with what stands beside it."""
        text = text.strip()
        sizes = range(1, min(len(text), self._longest - 1) + 1)
        if any(text[-size:] in self._heads or text[:size] in self._tails for size in sizes):
            return True
        return 0 < len(text) < self._longest and text in self._joined and text not in self._names

    def _marked(self, role: str, marks: Marks, text: str) -> str:
        marked = self._forged(role).sub(lambda found: f"{marks.opening}{found[0]}{marks.closing}", text)
        return f"{marks.opening}{marked}{marks.closing}" if self._joins(text) else marked


def encode(tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Without the interpreter lock, unlike `Tokenizer.encode`, which holds it to the end: seconds for millions of characters."""
    [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return list(encoding.ids)


def load_control_tokens(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> ControlTokens:
    """Raises ModelError for a tokenizer that cannot be copied."""
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    named = getattr(tokenizer, "chat_control_tokens", None)  # transformers' own word for the others
    template = str(tokenizer.chat_template or "")
    is_control = (lambda content: looks_like_control(content, template)) if named is None else set(named).__contains__
    shown = {token.content for token in added if not token.special and is_control(token.content)} - special
    return ControlTokens(special | shown, shown, backend, tokenizer.unk_token_id)


def looks_like_control(content: str, template: str) -> bool:
    """Of an added token that is not special: a marker of the template, or in the form <|...|>. Spaces and words are text, although
    templates contain them."""
    if not re.search(r"[^\w\s]", content):
        return False
    return content in template or re.fullmatch(r"<[|｜].*[|｜]>", content) is not None


def renamed(backend: Tokenizer, names: dict[str, str]) -> Tokenizer:
    """A copy in which some tokens have other names, and so are not found in a text. Raises ModelError."""
    strings = {json.dumps(token, ensure_ascii=False): json.dumps(name) for token, name in names.items()}
    try:
        copy = re.sub(JSON_STRING, lambda found: strings.get(found[0], found[0]), backend.to_str())
        result = Tokenizer.from_str(copy)
    except Exception as error:  # fault boundary: tokenizers raises Exception itself, for parts written in Python among others
        raise ModelError(f"the target's tokenizer cannot be copied: {error}") from error
    if any(result.token_to_id(name) != backend.token_to_id(token) for token, name in names.items()):
        raise ModelError("the target's tokenizer cannot be copied: its added tokens have other ids in the copy")
    return result


def any_of(words: Iterable[str]) -> str:
    """A regular expression for the longest of `words` at a place; its time does not grow with their number. None match nowhere."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return _branches(tree) or "(?!)"


def _branches(tree: dict[str, Any]) -> str:
    options = [re.escape(char) + _branches(rest) for char, rest in sorted(tree.items()) if char]
    if not options:
        return ""
    found = options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
    return f"(?:{found})?" if "" in tree else found


def strings_of(value: Any, free: bool = False) -> Iterator[str]:
    """A client's own strings in a message; `free`: within what it writes as it likes."""
    if isinstance(value, str):
        if not (free and value in SCHEMA_WORDS):
            yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if free and key not in SCHEMA_WORDS:
                yield key
            if free or key not in NOT_TEXT:
                yield from strings_of(inner, free or key in FREE)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner, free)


def mapped(value: Any, change: Callable[[str], str], free: bool = False) -> Any:
    """The same message with the strings changed that `strings_of` finds."""
    if isinstance(value, str):
        return value if free and value in SCHEMA_WORDS else change(value)
    if isinstance(value, dict):
        return {
            change(key) if free and key not in SCHEMA_WORDS else key: inner
            if not free and key in NOT_TEXT
            else mapped(inner, change, free or key in FREE)
            for key, inner in value.items()
        }
    return [mapped(inner, change, free) for inner in value] if isinstance(value, list) else value


def unused_marks(texts: Iterable[str]) -> Marks:
    """Raises RequestError where a request has all private-use characters there are."""
    present = set().union(*texts)
    free = list(islice((char for code in chain(*PRIVATE_USE) if (char := chr(code)) not in present), 2))
    if len(free) < 2:
        raise RequestError("messages has every private-use character of Unicode beside control tokens; leave some out", "messages")
    return Marks(*free)
