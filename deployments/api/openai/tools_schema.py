"""Tools, calls and the choice between them, as clients send them.

Promises: those of `schema`. A call's arguments go to the template as an object, if they are one, since templates write JSON themselves.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.api.openai.sampling_schema import Body

FunctionName = Annotated[str, Field(pattern=r"^[\w.$/:-]+$", max_length=128)]


class CacheControl(Body):
    """For servers that cache what they are told to. Here beginnings are cached by themselves (docs/prefix-cache.md)."""

    type: Literal["ephemeral"]
    ttl: str | None = None
    scope: str | None = None


class FunctionDefinition(Body):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionDefinition
    cache_control: CacheControl | None = None

    def plain(self) -> dict[str, Any]:
        """As chat templates know tools."""
        return {"type": "function", "function": self.function.model_dump(exclude={"strict"}, exclude_none=True)}


class NamedFunction(Body):
    name: FunctionName


class NamedTool(Body):
    """The tool that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class CalledFunction(Body):
    name: str
    arguments: str

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": as_object(self.arguments)}


class Call(Body):
    """Of an assistant's message that is sent back; `index` stands in what was streamed."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def plain(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": self.function.plain()}


def as_object(arguments: str) -> Any:
    """As it came where it is no JSON object: what a model has written, it may be shown again."""
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
