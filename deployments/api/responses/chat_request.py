"""From the body of /v1/responses to the chat request that it stands for, so that both are served by one path.

Promises: nothing that the body says is lost; errors of the chat request name the body's own fields.
"""

from typing import Any

from deployments.api.field_names import FieldNames
from deployments.api.openai.sampling_schema import SamplingBody
from deployments.api.responses.input_items import CallItem, CallOutputItem, InputText, Item, MessageItem, ReasoningItem, text_of
from deployments.api.responses.schema import LOGPROBS, FunctionChoice, FunctionTool, ResponsesRequest
from deployments.api.responses.truncation import stays

SAME = (
    *SamplingBody.model_fields, "model", "stop", "speculation", "priority", "structured_outputs", "thinking_token_budget",
    "chat_template_kwargs", "parallel_tool_calls",
)  # fmt: skip
"""Fields that mean the same in both, under one name."""

NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
    "logprobs": "include",
}


def chat_request(body: ResponsesRequest, left_out: int = 0) -> tuple[dict[str, Any], FieldNames]:
    """(a chat request's body, its names in `body`); without the first items, `left_out` of them, but for messages of the system."""
    given = body.model_dump(include=set(SAME), exclude_none=True, by_alias=True)
    messages = Messages(body.instructions)
    for i, item in enumerate([MessageItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input):
        if i >= left_out or stays(item):
            messages.add(item, "input" if isinstance(body.input, str) else f"input.{i}")
    names = NAMES | messages.names | {f"tools.{i}.function": f"tools.{i}" for i in range(len(body.tools or []))}
    return given | {"messages": messages.joined()} | _limits(body) | _tools(body) | _wishes(body), FieldNames(names)


def _limits(body: ResponsesRequest) -> dict[str, Any]:
    logprobs = {"logprobs": True, "top_logprobs": body.top_logprobs} if LOGPROBS in (body.include or ()) else {}
    return _there(max_completion_tokens=body.max_output_tokens, **logprobs)


def _tools(body: ResponsesRequest) -> dict[str, Any]:
    choice = body.tool_choice
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, FunctionChoice) else choice
    return _there(tools=None if body.tools is None else [_tool(tool) for tool in body.tools], tool_choice=named)


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _wishes(body: ResponsesRequest) -> dict[str, Any]:
    effort = body.reasoning.effort if body.reasoning is not None else None
    text = body.text
    form = _response_format(text.format) if text is not None and text.format is not None else None
    return _there(reasoning_effort=effort, verbosity=text.verbosity if text is not None else None, response_format=form)


def _response_format(form: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the type of a schema stands within it in chats."""
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}


def _there(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class Messages:
    """A chat's messages, from items in their order. `names`: from paths in the messages to those of the items.

    What the assistant thought, said and called in one turn is one message. A message has its text before its calls, so text that follows
    calls begins the next one.
    """

    def __init__(self, instructions: str | None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        self._turn: dict[str, Any] | None = None  # the assistant's message, while more may belong to it
        self._instructions = instructions
        if instructions is not None:
            self._append({"role": "system", "content": instructions}, "instructions")

    def joined(self) -> list[dict[str, Any]]:
        """The messages, once all items are there: what was thought in one turn is joined once, however many items it is in."""
        for message in self.messages:
            if "reasoning_content" in message:
                message["reasoning_content"] = "\n".join(filter(None, message["reasoning_content"]))
        return self.messages

    def add(self, item: Item, path: str) -> None:
        """`path`: of the item in the client's body."""
        match item:
            case MessageItem(role="assistant"):
                turn = self._turn_for("content", path)
                turn["content"] = text_of(item.content)
            case MessageItem():
                self._add_message(item, path)
            case CallItem():
                calls = self._turn_for("tool_calls", path).setdefault("tool_calls", [])
                self._name(f"tool_calls.{len(calls)}", path)
                self._name(f"tool_calls.{len(calls)}.function", path)
                calls.append({"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}})
            case CallOutputItem():
                self._append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}, path)
                self._name("content", f"{path}.output")
                self._name("tool_call_id", f"{path}.call_id")
            case ReasoningItem():
                turn = self._turn_for("reasoning_content", path)
                turn.setdefault("reasoning_content", []).append(item.text())
                self._name("reasoning_content", f"{path}.content")

    def _add_message(self, item: MessageItem, path: str) -> None:
        """Templates know one system message, at the beginning: instructions and what the input begins with are one."""
        if item.role != "user" and self._instructions is not None and len(self.messages) == 1:
            self.messages[0]["content"] = f"{self._instructions}\n\n{text_of(item.content)}"
            self._instructions = None
            return
        self._append({"role": item.role, "content": _content(item.content)}, path)

    def _turn_for(self, part: str, path: str) -> dict[str, Any]:
        """The assistant's message that the next `part` belongs to: a new one where this turn has gone past it."""
        turn = self._turn
        if turn is None or (part != "tool_calls" and ("content" in turn or "tool_calls" in turn)):
            turn = {"role": "assistant"}
            self._append(turn, path)
            self._turn = turn
        return turn

    def _append(self, message: dict[str, Any], path: str) -> None:
        self._turn = None
        self.messages.append(message)
        self._name("", path)

    def _name(self, part: str, path: str) -> None:
        """Of the last message."""
        self.names[f"messages.{len(self.messages) - 1}.{part}".rstrip(".")] = path


def _content(text: str | list[InputText]) -> str | list[dict[str, str]]:
    return text if isinstance(text, str) else [{"type": "text", "text": part.text} for part in text]
