"""From a body of /v1/messages to the chat request that says the same, and from that one's field names back to the client's.

Promises: each text, call and result stands in the chat in its place; turns of one role that follow one another are one message, as
Anthropic joins them; where the last turn is the assistant's, the answer goes on with it.
"""

import json
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from deployments.api.anthropic.schema import (
    BlockParam,
    MessagesRequest,
    PromptBody,
    TextParam,
    ThinkingParam,
    ToolChoiceParam,
    ToolParam,
    ToolResultParam,
    ToolUseParam,
)
from deployments.api.field_names import FieldNames
from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest

SWITCHES = ("enable_thinking", "thinking")
"""What chat templates call the variable that asks for reasoning."""

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
NAMES = {
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "tool_choice.function.name": "tool_choice.name",
    "response_format": "output_config.format",
    "response_format.json_schema.schema": "output_config.format.schema",
    "chat_template_kwargs": "thinking",
}
"""Paths in a chat request, and what they are made of here, where that is the same for all bodies."""


def chat_request(body: PromptBody, reads: Callable[[str], bool]) -> tuple[ChatRequest, FieldNames]:
    """`reads`: whether the model's chat template has a variable. Raises RequestError under the client's own names."""
    messages, origins = _messages(body)
    chat = {"model": body.model, "messages": messages} | _tools(body) | _thinking(body, reads) | _output(body) | _sampling(body)
    if messages[-1]["role"] == "assistant":
        chat["continue_final_message"] = True
    last = {"continue_final_message": f"messages.{len(body.messages) - 1}"}
    names = FieldNames({**NAMES, **origins, **last, **_tool_names(body), "reasoning_effort": _effort_name(body)})
    with names.named():
        return parse_body(ChatRequest, chat), names


def _messages(body: PromptBody) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The chat's messages, and from the path of each the path of that one which it begins with."""
    found: list[tuple[str, dict[str, Any]]] = []
    if body.system is not None:
        found.append(("system", {"role": "system", "content": _content(body.system)}))
    for role, turns in groupby(enumerate(body.messages), key=lambda turn: turn[1].role):
        joined = list(turns)
        first, message = joined[0]
        blocks = [block for _, turn in joined for block in turn.blocks()]
        if len(joined) == 1 and isinstance(message.content, str):
            made: Iterable[dict[str, Any]] = [{"role": role, "content": message.content}]
        else:
            made = [_assistants(blocks)] if role == "assistant" else _others(role, blocks)
        found += [(f"messages.{first}", each) for each in made]
    return [message for _, message in found], {f"messages.{i}": origin for i, (origin, _) in enumerate(found)}


def _assistants(blocks: Iterable[BlockParam]) -> dict[str, Any]:
    """A message has its calls behind its text, wherever they stood between."""
    texts = [_part(block) for block in blocks if isinstance(block, TextParam)]
    thought = "".join(block.thinking for block in blocks if isinstance(block, ThinkingParam))
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseParam)]
    message: dict[str, Any] = {"role": "assistant", "content": texts or None}
    return message | ({"reasoning_content": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})


def _others(role: str, blocks: Iterable[BlockParam]) -> list[dict[str, Any]]:
    """A chat has results as messages of their own, between what else was said."""
    messages: list[dict[str, Any]] = []
    for results, run in groupby(blocks, key=lambda block: isinstance(block, ToolResultParam)):
        if results:
            messages += [_result(block) for block in run if isinstance(block, ToolResultParam)]
        else:
            messages.append({"role": role, "content": [_part(block) for block in run if isinstance(block, TextParam)]})
    return messages or [{"role": role, "content": ""}]


def _result(block: ToolResultParam) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": _content(block.content)}


def _call(block: ToolUseParam) -> dict[str, Any]:
    function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
    return {"id": block.id, "type": "function", "function": function}


def _content(content: str | list[TextParam]) -> str | list[dict[str, str]]:
    return content if isinstance(content, str) else [_part(block) for block in content]


def _part(block: TextParam) -> dict[str, str]:
    return {"type": "text", "text": block.text}


def _tools(body: PromptBody) -> dict[str, Any]:
    said: dict[str, Any] = {"tools": [_tool(tool) for tool in body.tools]} if body.tools else {}
    if (choice := body.tool_choice) is None:
        return said
    if choice.disable_parallel_tool_use:
        said["parallel_tool_calls"] = False
    return said | {"tool_choice": _choice(choice)}


def _tool(tool: ToolParam) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema, "strict": tool.strict}
    return {"type": "function", "function": function}


def _choice(choice: ToolChoiceParam) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if choice.type == "tool" else CHOICES[choice.type]


def _tool_names(body: PromptBody) -> dict[str, str]:
    names = {f"tools.{i}.function": f"tools.{i}" for i, _ in enumerate(body.tools or [])}
    return names | {f"{path}.parameters": f"{own}.input_schema" for path, own in names.items()}


def _thinking(body: PromptBody, reads: Callable[[str], bool]) -> dict[str, Any]:
    options, effort = body.thinking, body.output_config and body.output_config.effort
    if options is not None and options.type == "disabled":
        return {"reasoning_effort": "none"}
    said: dict[str, Any] = {"reasoning_effort": "xhigh" if effort == "max" else effort} if effort else {}
    if options is None:
        return said
    switches = {name: True for name in SWITCHES if reads(name)}
    return said | {"thinking_token_budget": options.budget_tokens} | ({"chat_template_kwargs": switches} if switches else {})


def _effort_name(body: PromptBody) -> str:
    disabled = body.thinking is not None and body.thinking.type == "disabled"
    return "thinking" if disabled else "output_config.effort"


def _output(body: PromptBody) -> dict[str, Any]:
    if body.output_config is None or body.output_config.format is None:
        return {}
    schema = {"name": "answer", "schema": body.output_config.format.schema_, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _sampling(body: PromptBody) -> dict[str, Any]:
    if not isinstance(body, MessagesRequest):
        return {}
    said = {name: getattr(body, name) for name in ("max_tokens", "temperature", "top_p", "top_k", "priority")}
    speculation = body.speculation.model_dump(exclude_none=True) if body.speculation is not None else None
    return said | {"stop": body.stop_sequences or None, "speculation": speculation}
