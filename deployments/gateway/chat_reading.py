"""From a chat's body to its prompt's ids and to how its outputs are read.

Promises: what a request says of tools, reasoning and the template's variables reaches the template, or the request is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.grammar_schema import GrammarWish
from deployments.api.openai.tools_schema import Tool
from deployments.gateway.chat_template import ChatOptions
from deployments.gateway.output_format import OutputFormat
from deployments.gateway.text_codec import TextCodec
from deployments.parsers.registry import think_tags, tool_format
from drafthouse.config.api import ApiConfig
from drafthouse.errors import RequestError
from drafthouse.sampling import Grammar, ThinkingBudget, Thought


class ChatReading:
    def __init__(self, codec: TextCodec, api: ApiConfig) -> None:
        """Raises ConfigError for an own parser that cannot be used."""
        self._codec, self._template, self._api = codec, codec.chat_template, api
        self._tools = tool_format(api.tool_parser, self._template.text)
        self._tags = think_tags(api.reasoning_parser, self._template.text)
        tags = () if self._tags is None else (self._tags.opening, self._tags.closing)
        self._shown = codec.token_bytes.showing(tags)
        self._shown_with_calls = codec.token_bytes.showing((*tags, *(self._tools.shown if self._tools is not None else ())))

    def read(self, body: ChatRequest) -> tuple[list[int], OutputFormat]:
        """(prompt, how outputs are read). Raises RequestError."""
        tools = [tool.plain() for tool in body.offered_tools]
        if tools and self._tools is None:
            reason = "it is not known how this model writes calls; set api.tool_parser, or send tool_choice: none"
            raise RequestError(f"tools: {reason}", "tools", "unsupported_value")
        continues = bool(body.continue_final_message)
        generation_prompt = not continues if body.add_generation_prompt is None else body.add_generation_prompt
        options = ChatOptions(tools, generation_prompt, continues, self._variables(body))
        prompt, ids = self._codec.prompt_of([message.plain() for message in body.messages], options)
        inside = self._tags is not None and self._goes_on_thinking(prompt, body)
        if not tools:
            return ids, OutputFormat(self._shown, tags=self._tags, inside=inside)
        names = frozenset(tool["function"]["name"] for tool in tools)
        return ids, OutputFormat(self._shown_with_calls, self._tools, names, body.one_call, self._tags, inside)

    def budget(self, body: ChatRequest, output: OutputFormat) -> ThinkingBudget | None:
        """Raises RequestError where tokens cannot be told from tags."""
        tokens, tags = body.thinking_token_budget, self._tags
        if tokens is None:
            return None
        ids = [self._codec.token_id(tag) for tag in (tags.opening, tags.closing)] if tags is not None else []
        if tags is None or None in ids:
            reason = "no reasoning of this model is known (api.reasoning_parser)" if tags is None else "its tags are several tokens"
            raise RequestError(f"thinking_token_budget: {reason}; leave it out", "thinking_token_budget", "unsupported_value")
        opening, closing = (token for token in ids if token is not None)
        return ThinkingBudget(tokens, opening, closing, output.inside or tags.assumed)

    def grammar(self, body: ChatRequest, output: OutputFormat) -> GrammarWish | None:
        """What the output must be: what its `response_format` says, a call, or one or the other. Raises RequestError."""
        wish, required = body.grammar_wish(), body.required_tools
        if (called := required or (body.offered_tools if wish is not None else [])) and self._tools is not None:
            wish = self._call_grammar(body, called, None if required else wish)
        if wish is None:
            return None
        return replace(wish, grammar=replace(wish.grammar, thought=self._thought(output, wish.field)))

    def _call_grammar(self, body: ChatRequest, called: Sequence[Tool], answer: GrammarWish | None) -> GrammarWish:
        assert self._tools is not None
        if body.structured_outputs is not None and (answer is None or answer.grammar.kind != "json_schema"):
            field = "structured_outputs"
            raise RequestError(f"{field}: not together with calls of tools; send tool_choice: none", field, "unsupported_value")
        if self._tools.form is None:
            field = "tool_choice" if answer is None else answer.field
            reason = "this model's tool parser has no grammar of calls (docs/chat.md)"
            raise RequestError(f"{field}: {reason}; send tool_choice: {'auto' if answer is None else 'none'}", field, "unsupported_value")
        tools = [(tool.function.name, tool.function.parameters) for tool in called]
        schema = json.loads(answer.grammar.text) if answer is not None else None
        text = self._tools.form.lark(tools, not body.one_call, self._lark_tag, schema)
        return GrammarWish(Grammar("lark", text), "tool_choice" if answer is None else answer.field)

    def _lark_tag(self, text: str) -> str:
        """A control token by its id, as llguidance has it."""
        token = self._codec.control_token(text)
        return json.dumps(text) if token is None else f"<[{token}]>"

    def _thought(self, output: OutputFormat, field: str) -> Thought | None:
        """The reasoning that a grammar has to wait for. Raises RequestError where tokens cannot be told from tags."""
        if self._tags is None:
            return None
        opening, closing = (self._codec.token_id(tag) for tag in (self._tags.opening, self._tags.closing))
        if opening is None or closing is None:
            reason = "a grammar cannot begin behind this model's reasoning, whose tags are several tokens"
            raise RequestError(f"{field}: {reason}; leave it out", field, "unsupported_value")
        return Thought(opening, closing, output.inside or self._tags.assumed)

    def _goes_on_thinking(self, prompt: str, body: ChatRequest) -> bool:
        """The template's own last word counts, or the message's that is gone on with; not what others wrote before."""
        assert self._tags is not None
        if not body.continue_final_message:
            return prompt.rstrip().endswith(self._tags.opening)
        last = body.messages[-1]
        return self._tags.left_open(last.text())

    def _variables(self, body: ChatRequest) -> dict[str, Any]:
        """Raises RequestError for one that the template does not have, unless unknown fields are ignored."""
        variables = dict(body.chat_template_kwargs or {})
        for name in list(variables):
            if self._template.reads(name):
                continue
            if self._api.unknown_fields == "refuse":
                param = f"chat_template_kwargs.{name}"
                raise RequestError(f"{param}: the model's chat template has no such variable; leave it out", param)
            del variables[name]
        if body.verbosity is not None and self._template.reads("verbosity"):
            variables.setdefault("verbosity", body.verbosity)
        return self._effort(body) | variables

    def _effort(self, body: ChatRequest) -> dict[str, Any]:
        """Templates know efforts as `reasoning_effort`, or only whether there is to be reasoning, as `enable_thinking` or `thinking`."""
        effort = body.reasoning_effort
        if effort is None:
            return {}
        if self._template.reads("reasoning_effort"):
            return {"reasoning_effort": effort}
        for switch in ("enable_thinking", "thinking"):
            if self._tags is not None and self._template.reads(switch):
                return {switch: effort != "none"}
        if effort == "none" and self._tags is None:
            return {}
        message = "reasoning_effort: the model's chat template has nothing of the kind; leave it out"
        raise RequestError(message, "reasoning_effort", "unsupported_value")
