"""/docs: a page that names all that /openapi.json does, and asks a browser for nothing else."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

from deployments.api.openai.docs_page import docs_page, route_id
from tests.unit.openai_gateway import request

NO_END = ("meta", "br")


class Page(HTMLParser):
    """Texts, ids, links and styles of a page whose tags must close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.texts: list[str] = []
        self.style = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        said = dict(attrs)
        self.ids.update({said["id"] or ""} if "id" in said else ())
        self.links.update({said["href"] or ""} if "href" in said else ())
        assert not {name for name in said if name.startswith("on") or name in ("style", "src")}
        if tag not in NO_END:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.texts.append(data)


def test_it_names_every_route_field_and_status() -> None:
    document: dict[str, Any] = request("/openapi.json").json()
    page = Page(request("/docs").text)
    for path, methods in document["paths"].items():
        for method in methods.keys() - {"head"}:
            assert route_id(method, path) in page.ids
            assert f"{method.upper()} {path}" in page.texts
            assert methods[method]["description"] in page.texts
    for name, schema in document["components"]["schemas"].items():
        assert name in page.ids
        assert set(schema.get("properties", {})) <= set(page.texts)
    assert page.links == {"openapi.json"} | {f"#{name}" for name in page.ids}


def test_a_browser_is_asked_for_nothing_from_elsewhere() -> None:
    answer = request("/docs")
    page = Page(answer.text)
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == f"default-src 'none'; style-src 'sha256-{digest}'"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not re.search(r"url\(|@import", page.style)


def test_what_the_document_says_is_text() -> None:
    schema = {"description": "<b>", "properties": {"<i>": {"const": "<u>", "description": "'>"}}}
    document = {"info": {"title": "<s>", "version": "1"}, "paths": {}, "components": {"schemas": {"A": schema}}}
    page = Page(docs_page(document).decode())
    assert not page.tags & {"b", "i", "u", "s"}
    assert {"<b>", "<i>", '"<u>"'} <= set(page.texts)
