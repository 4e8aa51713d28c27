"""From the bytes of a request to its schema.

Promises: what costs little to see is refused before what costs much: the media type before reading, the number of JSON values
before parsing, the model's name before validation. Web pages of other origins cannot send application/json without asking
first (CORS), and other types are refused, so that no page starts generations on a user's own machine.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from deployments.api.openai.schema import check_model
from drafthouse.errors import TOO_LARGE, RequestError

MIN_VALUES = 1 << 16
"""JSON values that a body may have with any model. A few bytes each, they take the interpreter lock for a microsecond each."""

MAX_DEPTH = 100
"""Of lists and objects in each other: each level costs memory for every value below it."""

JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""Also one that does not end. Nothing is tried twice: where a long string lacked its end, time rose with the square of its length."""

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """Raises RequestError for another media type, and starlette's ClientDisconnect."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"content-type must be application/json, not {kind or 'left out'}"
        raise RequestError(message, code="unsupported_media_type", status=415)
    return await request.body()


def most_values(context_tokens: int) -> int:
    """JSON values that a body may have."""
    return max(MIN_VALUES, 2 * context_tokens)


def check_values(data: bytes, max_values: int) -> None:
    """Raises RequestError. A body of two-byte values would take 200 times its size in memory."""
    if _exceeds(data, max_values):
        raise RequestError(f"the body has more than {max_values} values; send several requests", code=TOO_LARGE, status=413)


def parse_json(data: bytes, max_values: int) -> object:
    """Raises RequestError."""
    check_values(data, max_values)
    try:
        return json.loads(data.decode("utf-8-sig"))  # no other encoding: what counts the values reads bytes
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from error


def _exceeds(data: bytes, max_values: int) -> bool:
    """Counts what stands before values, at first in strings too; a value and its key have four quotes, but for those that are escaped."""
    if _separators(data) <= max_values:
        return False
    return data.count(b'"') - data.count(b'\\"') > 4 * max_values or _separators(JSON_STRING.sub(b"", data)) > max_values


def _separators(data: bytes) -> int:
    """All but one of a JSON text's values follow one of these."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def parse_body(kind: type[Body], body: object, model: str | None = None, ignore_unknown: bool = False) -> Body:
    """Raises RequestError for the fault that lies deepest in the body, `param` its dotted path; for another model than `model` at once.
    `ignore_unknown` passes over fields that there are none of, here and within others.

    Deepest, because each member of a union has its say, and the one that got furthest is what was meant.
    """
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if model is not None and isinstance(body.get("model"), str):
        check_model(body["model"], model)
    check_unicode(body)
    unknown = next((key for key in body if key not in kind.model_fields), None)
    if unknown is not None and not ignore_unknown:
        raise no_such_field([unknown], kind)
    try:
        return kind.model_validate(body, extra="ignore" if ignore_unknown else None)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        faults = [(field_path(e["loc"], body, e["type"] == "missing"), e) for e in found]
        path, fault = max(faults, key=lambda found: len(found[0]))
        param = ".".join(path) or None
        if fault["type"] == "extra_forbidden":
            raise no_such_field(path, kind) from error
        code = "unsupported_value" if fault["type"] == "unsupported" else "invalid_value"
        raise RequestError(f"{param or 'body'}: {fault['msg']}", param, code) from error


def no_such_field(path: Sequence[str], kind: type[BaseModel]) -> RequestError:
    """`path` leads from a body of `kind` to the field."""
    models: list[type[BaseModel]] = [kind]
    for part in path[:-1]:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in models_in(field.annotation)] if fields else models  # else a place in a list
    known = [name for model in models for name in model.model_fields]
    near = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(path[-1], known, n=1))
    param = ".".join(path)
    return RequestError(f"{param}: no such field{near}", param)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def check_unicode(body: object) -> None:
    """Raises RequestError naming the field of a lone surrogate: JSON can spell one, but it is no character, and no text can hold it."""
    left: list[tuple[tuple[str, ...], object]] = [((), body)]
    while left:
        path, value = left.pop()
        if len(path) > MAX_DEPTH:
            raise RequestError(f"{path[0]}: nested deeper than {MAX_DEPTH} levels", path[0])
        if isinstance(value, dict):
            left += [(path, key) for key in value]
            left += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [((*path, str(i)), item) for i, item in enumerate(value) if not isinstance(item, int)]
        elif isinstance(value, str) and not is_unicode(value):
            while path and path[-1].isdecimal():  # a list of strings is one field
                path = path[:-1]
            param = ".".join(path) or None
            raise RequestError(f"{param or 'body'}: not valid Unicode: it has half of a surrogate pair; send whole characters", param)


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def field_path(loc: Sequence[str | int], body: object, missing: bool) -> list[str]:
    """The path in the client's own JSON: pydantic's `loc` without the tags of union members."""
    path: list[str] = []
    for part in loc:
        here = isinstance(body, dict) and part in body or isinstance(body, list) and isinstance(part, int) and part < len(body)
        if here:
            body = body[part]  # type: ignore[index]
            path.append(str(part))
    if missing:
        path.append(str(loc[-1]))
    return path
