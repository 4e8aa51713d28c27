"""From protobuf to the bodies that HTTP has, so that both are checked and planned by the same code.

Promises: a field goes by its own name, and an error names it. What is free-form travels as JSON text: protobuf's Struct loses the order of
names, which templates and grammars show, and makes every number a double. A field of a later version is refused, as HTTP refuses what it
does not know, unless `api.unknown_fields` is `ignore`.
"""

import json
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from deployments.api.openai.body import check_values, most_values, parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.schema import CompletionRequest
from deployments.api.openai.text_schema import DetokenizeRequest, TokenizeRequest
from deployments.gateway.request_planner import RequestPlan, RequestPlanner
from drafthouse.errors import TOO_LARGE, RequestError
from drafthouse.token_logprobs import LogprobsWish
from protos import inference_pb2 as pb

AnyMessage = TypeVar("AnyMessage", bound=Message)

FUNCTION = {"type": "function"}


def read(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """Raises RequestError for bytes that are no message of this `kind`."""
    try:
        message: AnyMessage = kind.FromString(data)
    except DecodeError as error:
        raise RequestError(f"the request cannot be read: it is no protobuf message {kind.DESCRIPTOR.full_name}") from error
    return message


def make_plan(planner: RequestPlanner, data: bytes) -> RequestPlan:
    """Of a GenerateRequest, as it came. Raises RequestError naming the field at fault."""
    request = read(pb.GenerateRequest, data)
    body, kind = _Body(planner, request), request.WhichOneof("input")
    if request.messages:
        if kind is not None:
            raise RequestError(f"send either messages or {kind}", kind)
        return planner.chat(body.chat(), "gen")
    if kind is None:
        raise RequestError("prompt, prompt_tokens or messages must be set", "prompt")
    return planner.completion(body.completion(kind), "gen", kind)


def tokenize_body(planner: RequestPlanner, data: bytes) -> TokenizeRequest:
    """Of a TokenizeRequest, as it came. Raises RequestError."""
    return _Body(planner, read(pb.TokenizeRequest, data)).tokenize()


def detokenize_body(planner: RequestPlanner, data: bytes) -> DetokenizeRequest:
    """Of a DetokenizeRequest, as it came. Raises RequestError."""
    return _Body(planner, read(pb.DetokenizeRequest, data)).detokenize()


class _Body:
    """A message as a JSON body would have it, and then as its schema."""

    def __init__(self, planner: RequestPlanner, message: Any) -> None:
        """Raises RequestError for more entries of lists than JSON values may be in a body."""
        self._planner, self._most = planner, most_values(planner.metadata.context_tokens)
        self._check_count(message)
        self._body = self._plain(message)
        self._free_form()

    def completion(self, kind: str) -> CompletionRequest:
        if kind == "prompt_tokens":
            self._body["prompt"] = self._body.pop("prompt_tokens").get("ids", [])
        self._body.setdefault("model", "")
        return self._parsed(CompletionRequest)

    def chat(self) -> ChatRequest:
        body = self._body
        self._messages()
        if "tools" in body:
            body["tools"] = [FUNCTION | tool for tool in body["tools"]]
        if "tool_choice" in body:
            choice = body["tool_choice"]
            body["tool_choice"] = choice.get("mode", FUNCTION | choice if "function" in choice else None)
        if "prediction" in body:
            body["prediction"] = {"type": "content", "content": body["prediction"].get("content", "")}
        if "logprobs" in body:
            LogprobsWish(body["logprobs"]).check()  # by the name that it has here
            body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
        body.setdefault("model", "")
        return self._parsed(ChatRequest)

    def tokenize(self) -> TokenizeRequest:
        self._messages()
        return self._parsed(TokenizeRequest)

    def detokenize(self) -> DetokenizeRequest:
        self._body.setdefault("tokens", [])
        return self._parsed(DetokenizeRequest)

    def _parsed(self, kind: Any) -> Any:
        return parse_body(kind, self._body, self._planner.model)

    def _messages(self) -> None:
        for i, message in enumerate(self._body.get("messages", [])):
            parts = message.pop("parts", None)
            if parts is not None and "content" in message:
                raise RequestError(f"messages.{i}.parts: send either content or parts", f"messages.{i}.parts")
            if parts is not None:
                message["content"] = [{"type": "text", "text": part.get("text", "")} for part in parts]
            for call in message.get("tool_calls", []):
                call.setdefault("id", "")
                call["function"] = {"name": "", "arguments": ""} | call.get("function", {})

    def _free_form(self) -> None:
        """Puts what is JSON text in its place. Raises RequestError."""
        places = [(self._body, "chat_template_kwargs", "chat_template_kwargs")]
        schema = self._body.get("response_format", {}).get("json_schema", {})
        places.append((schema, "schema", "response_format.json_schema.schema"))
        for i, tool in enumerate(self._body.get("tools", [])):
            places.append((tool.get("function", {}), "parameters", f"tools.{i}.function.parameters"))
        places = [place for place in places if place[1] in place[0]]
        check_values(",".join(holder[name] for holder, name, _ in places).encode(), self._most)
        for holder, name, field in places:
            holder[name] = _json(holder[name], field)

    def _check_count(self, message: Message) -> None:
        """Of repeated fields lengths alone are looked at first."""
        inside, count = [message], 0
        while inside:
            for field, value in inside.pop().ListFields():
                plain, several = field.message_type is None or field.message_type.GetOptions().map_entry, field.is_repeated
                count += len(value) if several else 0
                if count > self._most:
                    raise RequestError(f"the request has more than {self._most} values in its lists", code=TOO_LARGE, status=413)
                if not plain:
                    inside += value if several else [value]

    def _plain(self, message: Message) -> dict[str, Any]:
        """The fields that are set, by name. Raises RequestError."""
        unknown = UnknownFieldSet(message)
        if len(unknown) and self._planner.api.unknown_fields == "refuse":
            name = message.DESCRIPTOR.full_name
            raise RequestError(f"{name} has a field of number {unknown[0].field_number}, which this version does not have; leave it out")
        return {field.name: self._value(field, value) for field, value in message.ListFields()}

    def _value(self, field: FieldDescriptor, value: Any) -> Any:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            return {str(key): each for key, each in value.items()}
        if inner is None:
            return list(value) if field.is_repeated else value
        return [self._plain(each) for each in value] if field.is_repeated else self._plain(value)


def _json(text: str, field: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{field}: this is not JSON: {error}", field, "invalid_json") from error
