"""The formats that are known, by name, and which one a chat template asks its model to write.

Own formats are named module:Class: a ToolParser. A format is detected only where the template itself has its markers.
"""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from deployments.parsers import hermes, json_calls, llama3, mistral
from deployments.parsers.call_form import CallForm
from deployments.parsers.hermes import HermesParser
from deployments.parsers.json_calls import JsonCallsParser
from deployments.parsers.llama3 import Llama3Parser
from deployments.parsers.mistral import MistralParser
from deployments.parsers.parsed import ToolParser
from deployments.parsers.thinking import ThinkTags
from drafthouse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`shown`: control tokens that the parser has to see. `id_chars`: of the id of a call; Mistral's templates take no other length.
    `form`: what a grammar holds the model to where a call is required; None where that is not known."""

    make: Callable[[frozenset[str]], ToolParser]
    shown: tuple[str, ...] = ()
    id_chars: int = 24
    id_prefix: str = "call_"
    form: CallForm | None = None

    def call_id(self, output: str, index: int) -> str:
        """Of the call `index` of an output, which `output` names."""
        return self.id_prefix + hashlib.sha256(f"{output}/{index}".encode()).hexdigest()[: self.id_chars]


TOOL_FORMATS = {
    "hermes": ToolFormat(HermesParser, (hermes.OPEN, hermes.CLOSE), form=hermes.FORM),
    "llama3": ToolFormat(Llama3Parser, (llama3.PYTHON_TAG,), form=llama3.FORM),
    "mistral": ToolFormat(
        MistralParser, (mistral.CALLS, mistral.ARGS, mistral.CALL_ID), id_chars=9, id_prefix="", form=mistral.LISTED
    ),  # fmt: skip
    "json": ToolFormat(JsonCallsParser, form=json_calls.FORM),
}
THINK_TAGS = {
    "think": ThinkTags("<think>", "</think>"),
    "deepseek_r1": ThinkTags("<think>", "</think>", assumed=True),
    "mistral": ThinkTags("[THINK]", "[/THINK]"),
    "seed_oss": ThinkTags("<seed:think>", "</seed:think>"),
}


def tool_format(name: str, template: str) -> ToolFormat | None:
    """`name` as in the configuration. None: calls are not parsed. Raises ConfigError for an own parser that cannot be used."""
    if name == "none":
        return None
    if name == "mistral":
        return _mistral(template)
    if name != "auto":
        return TOOL_FORMATS.get(name) or ToolFormat(_own(name))
    if "<tool_call>" in template and "<function=" not in template:  # Qwen 3's coders write XML between the same tags
        return TOOL_FORMATS["hermes"]
    if mistral.CALLS in template:
        return _mistral(template)
    if llama3.PYTHON_TAG in template or ("<|eom_id|>" in template and '"parameters"' in template):
        return TOOL_FORMATS["llama3"]
    return None


def _mistral(template: str) -> ToolFormat:
    """Newer models write a call's name without JSON, as their templates show."""
    found = TOOL_FORMATS["mistral"]
    return replace(found, form=mistral.NAMED) if mistral.ARGS in template else found


def think_tags(name: str, template: str) -> ThinkTags | None:
    """`name` as in the configuration. None: reasoning is not parsed."""
    if name != "auto":
        return THINK_TAGS.get(name)
    return next((tags for tags in THINK_TAGS.values() if tags.closing in template), None)


def _own(name: str) -> type[ToolParser]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"api.tool_parser: {name} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, ToolParser)):
        raise ConfigError(f"api.tool_parser: {name} is no subclass of deployments.parsers.parsed.ToolParser")
    return found
