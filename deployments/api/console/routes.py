"""/console: the files of the console, as they lie beside this module ([docs/console.md]).

Promises: no other file is ever read or sent. The files hold no secrets and know no key, so they are served without one; what they
ask of the API is asked as by any client. A browser runs and loads nothing but these files, and frames the page nowhere. FastAPI reads
the annotations of these routes, so they must not be postponed here.
"""

import hashlib
import pathlib
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from deployments.api.openai.openapi import READ, Responses, errors_of
from drafthouse.errors import RequestError
from drafthouse.wire.fields import MAX_SHOWN_CHARS

STATIC = pathlib.Path(__file__).parent / "static"
PAGE = "index.html"
PATH = "/console"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for again by its tag: an upgrade shows at once
}
UNCHANGED: Responses = {304: {"description": "the browser has it"}}
FILES = {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}


@dataclass(frozen=True, slots=True)
class StaticFile:
    data: bytes
    media_type: str
    tag: str

    def answer(self, request: Request) -> Response:
        headers = {**HEADERS, "ETag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.media_type, headers=headers)


def read_files() -> dict[str, StaticFile]:
    """By name."""
    return {path.name: _read(path) for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA_TYPES}


def _read(path: pathlib.Path) -> StaticFile:
    data = path.read_bytes()
    return StaticFile(data, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def add_console(app: FastAPI) -> frozenset[str]:
    """Serves the files. Returns their paths, which need no key."""
    files = read_files()
    page = files.pop(PAGE)

    @app.api_route(PATH, methods=READ, responses={200: {"content": {MEDIA_TYPES[".html"]: FILES[MEDIA_TYPES[".html"]]}}, **UNCHANGED},
                   response_class=HTMLResponse)  # fmt: skip
    async def console(request: Request) -> Response:
        """The console: a page to try prompts, look at drafts and watch the cluster."""
        return page.answer(request)

    @app.api_route(
        f"{PATH}/{{name}}", methods=READ, responses={200: {"content": FILES}, **UNCHANGED, **errors_of(404)}, response_class=Response
    )
    async def console_file(name: str, request: Request) -> Response:
        """A file of the console."""
        if name not in files:
            message = f"the console has no file {name[:MAX_SHOWN_CHARS]!r}; its page is {PATH}"
            raise RequestError(message, "name", "not_found", 404)
        return files[name].answer(request)

    return frozenset({PATH, f"{PATH}/", *(f"{PATH}/{name}" for name in files)})
