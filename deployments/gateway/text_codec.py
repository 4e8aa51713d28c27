"""The target's tokenizer and chat template: from prompts and chats to token ids.

Promises: what the model cannot do (no chat template, a tokenizer that cannot be streamed) is a typed
error that says so.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from deployments.gateway.chat_template import PLAIN, ChatOptions, ChatTemplate, Message, load_chat_template
from deployments.gateway.control_tokens import ControlTokens, encode, load_control_tokens
from deployments.gateway.detokenizer import Detokenizer, TokenBytes
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.errors import ModelError, RequestError

logger = logging.getLogger(__name__)


class TextCodec:
    """Text to token ids, for prompts and for chats. Thread-safe: encoding changes no state.

    `longest_token`: characters; N tokens are of at most N times as many, unless the tokenizer drops some.
    """

    def __init__(
        self, backend: Tokenizer, token_bytes: TokenBytes, chat: ChatTemplate, control: ControlTokens, stop_token: int | None
    ) -> None:
        """`stop_token` is what the tokenizer takes for the end of a text."""
        self._backend, self.chat_template, self._control = backend, chat, control
        self.token_bytes, self.stop_token = token_bytes, stop_token
        self.longest_token = max(map(len, backend.get_vocab(with_added_tokens=True)))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The prompt's ids, with the `special` tokens the model expects around a prompt. A prompt is in its writer's hands alone:
        control tokens in it are tokens."""
        return encode(self._backend, text, add_special_tokens=special)

    def tokenizer_text(self) -> str:
        """As tokenizer.json has it."""
        text: str = self._backend.to_str()
        return text

    def token_id(self, text: str) -> int | None:
        """Of the one token that is this text."""
        token: int | None = self._backend.token_to_id(text)
        return token

    def control_token(self, text: str) -> int | None:
        """The token that this text is the name of, and that no text of a user becomes; None where there is none."""
        added = self._backend.get_added_tokens_decoder()
        return next((token for token, each in added.items() if each.special and each.content == text), None)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, control tokens included; ids must lie in the vocabulary."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=False)
        return text

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary writes it; ids that it leaves out are empty."""
        return [self._backend.id_to_token(token) or "" for token in ids]

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of all tokens at once, special tokens left out."""
        detokenizer = Detokenizer(self.token_bytes)
        return detokenizer.add(tokens) + detokenizer.flush()

    def encode_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The tokens of each word, at the beginning of a text and after a space, without special tokens; each run once."""
        forms = [prefix + word.strip() for word in words for prefix in ("", " ")]
        return tuple(dict.fromkeys(tuple(ids) for form in forms if (ids := encode(self._backend, form, add_special_tokens=False))))

    def encode_chat(self, messages: Sequence[Message], options: ChatOptions = PLAIN) -> list[int]:
        """The ids of `prompt_of`'s text."""
        return self.prompt_of(messages, options)[1]

    def prompt_of(self, messages: Sequence[Message], options: ChatOptions = PLAIN) -> tuple[str, list[int]]:
        """The chat as text and its ids, ready for the assistant's turn; no string of a message or a tool becomes a control token.

        Raises RequestError where there is no usable chat template, or it refuses the messages or loses one.
        """
        template = self.chat_template
        messages = template.fit(messages)
        template.check(messages, options)
        self._check_variables(options)
        prompt = template.render(messages, options)
        template.check_arrived(messages, prompt, options)
        (*marked, tools), marks = self._control.mark([*messages, {"role": "tools", "tools": list(options.tools)}])
        again = prompt if marks is None else template.render(marked, replace(options, tools=tools["tools"]))
        return prompt, self._control.encode(prompt, again, marks)

    def _check_variables(self, options: ChatOptions) -> None:
        """Raises RequestError: what a template makes of a variable is not known, so no control token may stand in one."""
        for name, value in options.variables.items():
            if self._control.stands_in(value):
                param = f"chat_template_kwargs.{name}"
                raise RequestError(f"{param}: has a control token of the model; leave it out", param)


def make_codec(tokenizer: PreTrainedTokenizerBase) -> TextCodec:
    """Raises ModelError for a tokenizer that cannot be used."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError("the target's tokenizer has no tokenizer.json form, which drafthouse needs")
    backend.no_truncation()  # a prompt that is too long is refused, never cut
    backend.no_padding()
    chat = load_chat_template(tokenizer)
    if chat.refusal:
        logger.warning("no chats: %s", chat.refusal)
    return TextCodec(backend, TokenBytes(backend), chat, load_control_tokens(tokenizer, backend), tokenizer.eos_token_id)


def load_codec(model: ModelConfig) -> TextCodec:
    """Raises ConfigError or ModelError naming the model."""
    tokenizer = load_tokenizer(model)
    try:
        return make_codec(tokenizer)
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Raises ConfigError or ModelError naming the model."""
    path = model_path(model.path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # fault boundary: transformers and tokenizers raise many kinds, bare ones too
        raise ModelError(f"{model.path}: no usable tokenizer: {' '.join(str(error).split()) or type(error).__name__}") from error
    return tokenizer
