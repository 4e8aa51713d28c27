"""The model's chat template: which form of messages it takes, and what it makes of them.

Promises: a text that a client sends stands in the prompt, or the request is refused with the reason. Which form of
content each role takes is found out once, at load, and whether tools and calls come out at all. Templates are programs from
elsewhere: all that they raise is a RequestError with their own words.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from drafthouse.errors import RequestError

Message = dict[str, Any]
"""`role`, `content` (a string, or a list of {"type": "text", "text": ...}); and, where there are such, `name`, `tool_calls` with their
arguments as objects, `tool_call_id` and `reasoning_content`."""

FIRST, SECOND = "\ue010\ue011", "\ue012\ue013"
"""Texts that no template writes itself or changes: private-use characters have no case and are no space."""

OWN_VARIABLES = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}
"""What chat_template_kwargs may not set: what we set, and what transformers itself would take."""

PROBE_ID = "a1b2c3d4e"
"""Of a call: nine letters and digits, as Mistral's templates want it."""

NO_TEMPLATE = "this model has no chat template; use /v1/completions"


@dataclass(frozen=True, slots=True)
class ContentForms:
    """How a template takes the content of one role: as a string, as a list of one text part, of several. None: it is lost."""

    string: bool = False
    one_part: bool = False
    several_parts: bool = False

    @property
    def lost(self) -> bool:
        return not (self.string or self.one_part)

    def fit(self, content: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
        """`content` as it came where the template takes that, in the other form otherwise."""
        if isinstance(content, list) and self.several_parts:
            return content
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        return text if self.string else [text_part(text)]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a template gets beside the messages. `continues`: the last message, the assistant's, is to be gone on with."""

    tools: Sequence[dict[str, Any]] = ()
    generation_prompt: bool = True
    continues: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


PLAIN = ChatOptions()

ANY_STRING = ContentForms(string=True)
"""For a role that the template refuses in any form: with each request it says why."""


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


class ChatTemplate:
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        forms: Mapping[str, ContentForms],
        refusal: str = "",
        tools: bool = False,
        calls: bool = False,
    ) -> None:
        """`forms` by role; `refusal` is why no chat can be served, if none can; `tools`, `calls`: these come out."""
        self._tokenizer, self._forms, self.refusal = tokenizer, forms, refusal
        self._tools, self._calls = tools, calls
        self.text = template_text(tokenizer)
        self._words = frozenset(re.findall(r"\w+", self.text))

    def reads(self, variable: str) -> bool:
        """Whether the template has the word at all."""
        return variable in self._words

    def check(self, messages: Sequence[Message], options: ChatOptions) -> None:
        """Raises RequestError for tools, calls and variables that the template would leave out or that are ours to set."""
        if options.tools and not self._tools:
            raise RequestError("the model's chat template leaves out tools; leave them out, or send tool_choice: none", "tools")
        for i, message in enumerate(messages):
            if message.get("tool_calls") and not self._calls:
                raise RequestError(_losing("of tool_calls", "send it as content"), f"messages.{i}.tool_calls")
        for name in options.variables:
            if name in OWN_VARIABLES or name in self._tokenizer.special_tokens_map:
                raise RequestError(f"chat_template_kwargs.{name}: not for requests to set; leave it out", f"chat_template_kwargs.{name}")

    def fit(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in the forms that the template takes. Raises RequestError where it takes none."""
        if self.refusal:
            raise RequestError(self.refusal, "messages", code="no_chat_template")
        fitted = []
        for i, message in enumerate(messages):
            forms = self._forms.get(message["role"], ANY_STRING)
            if forms.lost:
                raise RequestError(_losing(f"of {message['role']} messages"), f"messages.{i}.role")
            fitted.append(message | {"content": forms.fit(message["content"])})
        return fitted

    def render(self, messages: Sequence[Message], options: ChatOptions = PLAIN) -> str:
        """The prompt, up to where the model goes on. Raises RequestError where the template refuses the messages."""
        return run_template(self._tokenizer, messages, options)

    def check_arrived(self, messages: Sequence[Message], prompt: str, options: ChatOptions = PLAIN) -> None:
        """Raises RequestError for a message of system, user or a tool whose text the template has left out of the prompt.

        A text that does not stand there as it is may have been changed, too, which is the template's right. What an
        assistant thought on the way, templates leave out on purpose.
        """
        labels = {i: f"{FIRST}{i}{SECOND}" for i in _not_in(messages, prompt) if messages[i]["role"] != "assistant"}
        if not labels:
            return
        labelled = list(messages)
        for i, label in labels.items():
            forms = self._forms.get(messages[i]["role"], ANY_STRING)
            labelled[i] = messages[i] | {"content": forms.fit(label)}
        text = self.render(labelled, options)
        for i, label in labels.items():
            if label not in text:
                raise RequestError(_losing("of this message, at this place"), f"messages.{i}")


def _losing(what: str, remedy: str = "send it as part of another message") -> str:
    return f"the model's chat template leaves out the text {what}; {remedy}"


def _not_in(messages: Sequence[Message], text: str) -> list[int]:
    """Indices of messages with a text that does not stand in `text` as it is, but for space around it."""
    missing, at = [], 0
    for i, message in enumerate(messages):
        for piece in texts_of(message["content"]):
            found = text.find(piece, at)
            found = text.find(piece) if found < 0 else found
            if found < 0:
                missing.append(i)
                break
            at = found
    return missing


def texts_of(content: str | list[dict[str, str]]) -> list[str]:
    return [text.strip() for text in ([content] if isinstance(content, str) else (part["text"] for part in content))]


def run_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], options: ChatOptions = PLAIN) -> str:
    """Raises RequestError."""
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tools=list(options.tools) or None, tokenize=False, add_generation_prompt=options.generation_prompt,
                continue_final_message=options.continues, **options.variables,
            )
        )  # fmt: skip
    except Exception as error:  # fault boundary: a template is a program of the model's maker, and raises what it likes
        words = str(error) or type(error).__name__
        raise RequestError(f"the model's chat template refuses these messages: {words}", "messages") from error


def load_chat_template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """Tries the template on messages of every role and form. One that cannot be used becomes a refusal, not an error."""
    if not tokenizer.chat_template:
        return ChatTemplate(tokenizer, {}, NO_TEMPLATE)
    try:
        tokenizer.get_chat_template()
        run_template(tokenizer, [{"role": "user", "content": FIRST}])
    except ValueError as error:  # several templates and none that is the default
        return ChatTemplate(tokenizer, {}, _unusable(str(error)))
    except RequestError as error:
        if isinstance(error.__cause__, TemplateSyntaxError):
            return ChatTemplate(tokenizer, {}, _unusable(f"line {error.__cause__.lineno}: {error.__cause__}"))

    def run(*messages: Message, options: ChatOptions = PLAIN) -> str | None:
        try:
            return run_template(tokenizer, messages, options)
        except RequestError:
            return None

    user = probe_forms(lambda content: run({"role": "user", "content": content}))
    if user.lost:
        reason = "it leaves out the text of user messages, both as a string and as a list of parts"
        return ChatTemplate(tokenizer, {}, _unusable(reason))
    asked = {"role": "user", "content": user.fit("x")}
    system = probe_forms(lambda content: run({"role": "system", "content": content}, asked))
    assistant = probe_forms(lambda content: run(asked, {"role": "assistant", "content": content}, asked))
    result = {"role": "tool", "name": "probe", "tool_call_id": PROBE_ID}
    tool = probe_forms(lambda content: run(asked, probe_call("probe"), result | {"content": content}))
    forms = {"user": user, "system": system, "assistant": assistant, "tool": tool}
    with_tools, with_call = run(asked, options=ChatOptions([probe_tool(FIRST)])), run(asked, probe_call(FIRST))
    return ChatTemplate(tokenizer, forms, tools=FIRST in (with_tools or ""), calls=FIRST in (with_call or ""))


def probe_call(name: str) -> Message:
    function = {"name": name, "arguments": {"x": "y"}}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": PROBE_ID, "type": "function", "function": function}]}


def probe_tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]}
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters}}


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all templates, where there are several. Empty: there is none."""
    template = tokenizer.chat_template
    return "\n".join(template.values()) if isinstance(template, dict) else str(template or "")


def _unusable(reason: str) -> str:
    return f"the model's chat template cannot be used: {reason}; use /v1/completions, or correct the template"


def probe_forms(render: Callable[[str | list[dict[str, str]]], str | None]) -> ContentForms:
    """`render` gives the prompt with this content, None where the template refuses it.

    A template for strings may take a list and print it as Python would; where it takes strings, one part must come out
    as the string does.
    """
    string, one_part, two_parts = render(FIRST), render([text_part(FIRST)]), render([text_part(FIRST), text_part(SECOND)])
    if string is None and one_part is None:
        return ANY_STRING
    takes_string = string is not None and FIRST in string
    takes_part = one_part is not None and FIRST in one_part and (one_part == string or not takes_string)
    takes_several = takes_part and two_parts is not None and 0 <= two_parts.find(FIRST) < two_parts.find(SECOND)
    return ContentForms(takes_string, takes_part, takes_several)
