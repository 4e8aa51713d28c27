"""/docs: the document of /openapi.json as one page to read.

Promises: plain HTML with its style inside: no script, no picture, nothing from elsewhere, and a policy that forbids a browser all of
these. Every route, field and status of the document stands in it.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from fastapi.responses import HTMLResponse, Response

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
code { font: 13px/1.5 ui-monospace, monospace; }
section { border-top: 1px solid #8885; margin-top: 1.5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #8883; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
li { list-style: none; }
ul { padding: 0; }
"""
POLICY = f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "pattern")

Node = dict[str, Any]


def page_response(page: bytes) -> Response:
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


def docs_page(document: Node) -> bytes:
    """The page of an OpenAPI document."""
    title = f"{document['info']['title']} {document['info']['version']}"
    routes = [(method, path, what) for path, methods in document["paths"].items() for method, what in methods.items() if method != "head"]
    schemas = document["components"]["schemas"]
    body = [
        f"<h1>{escape(title)}</h1>",
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a>.</p>",
        _listed("Routes", [(route_id(method, path), f"{method.upper()} {path}") for method, path, _ in routes]),
        _listed("Objects", [(name, name) for name in schemas]),
        *(_route(method, path, what) for method, path, what in routes),
        *(_schema(name, schema) for name, schema in schemas.items()),
    ]
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{escape(title)}</title>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{''.join(body)}</body></html>".encode()


def route_id(method: str, path: str) -> str:
    return f"{method} {path}".replace(" ", "-")


def _listed(title: str, entries: Sequence[tuple[str, str]]) -> str:
    """Links to parts of this page: (id, label)."""
    links = "".join(f"<li><a href='#{escape(target)}'><code>{escape(label)}</code></a></li>" for target, label in entries)
    return f"<h2>{title}</h2><ul>{links}</ul>"


def _route(method: str, path: str, what: Node) -> str:
    parts = [f"<h3><code>{method.upper()} {escape(path)}</code></h3>", f"<p>{escape(what.get('description', ''))}</p>"]
    if "security" in what:
        parts.append("<p>Needs an API key.</p>")
    for parameter in what.get("parameters", []):
        parts.append(f"<p>In the path: <code>{escape(parameter['name'])}</code>.</p>")
    for kind, said in what.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Takes <code>{escape(kind)}</code>: {_type(said['schema'])}</p>")
    answers = what["responses"].items()
    rows = [(f"<code>{escape(status)}</code>", escape(answer["description"]), _answers(answer)) for status, answer in answers]
    return f"<section id='{escape(route_id(method, path))}'>{''.join(parts)}{_table(('status', 'when', 'answer'), rows)}</section>"


def _answers(answer: Node) -> str:
    """What a status comes with, by media type."""
    found = [f"<code>{escape(kind)}</code>: {_type(said.get('schema', {}))}" for kind, said in answer.get("content", {}).items()]
    return "<br>".join(found)


def _schema(name: str, schema: Node) -> str:
    required = set(schema.get("required", []))
    rows = [
        (f"<code>{escape(field)}</code>", _type(node), "yes" if field in required else "", _further(node))
        for field, node in schema.get("properties", {}).items()
    ]
    said = f"<p>{escape(schema['description'])}</p>" if "description" in schema else ""
    table = _table(("field", "type", "required", "further"), rows) if rows else f"<p>{_type(schema)}</p>"
    return f"<section id='{escape(name)}'><h3><code>{escape(name)}</code></h3>{said}{table}</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in rows)}</table>"


def _further(node: Node) -> str:
    """Default, bounds and description."""
    said = [f"default {json.dumps(node['default'])}"] if node.get("default") is not None else []
    said += [f"{name} {part[name]}" for part in (node, *node.get("anyOf", [])) for name in BOUNDS if name in part]
    return escape("; ".join([*said, *([node["description"]] if "description" in node else [])]))


def _type(node: Node) -> str:
    """In HTML, with links to the objects that it names."""
    return " or ".join(dict.fromkeys(_types(node))) or "anything"


def _types(node: Node) -> Iterator[str]:
    if "$ref" in node:
        name = escape(node["$ref"].rpartition("/")[2])
        yield f"<a href='#{name}'>{name}</a>"
    for inner in (*node.get("anyOf", []), *node.get("oneOf", [])):
        yield from _types(inner)
    values = [node["const"]] if "const" in node else node.get("enum", [])
    yield from (f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if "type" in node and not values:
        inner = node.get("items") or node.get("additionalProperties")
        more = f" of {_type(inner)}" if isinstance(inner, dict) and inner else ""
        yield escape(node["type"]) + more
