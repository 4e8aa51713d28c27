"""Server-sent events survive clients that read by lines, whatever a text holds."""

import json

import httpx

from deployments.api.openai.responses import sse

ODD = "a\x85b\u2028c\u2029d\x0be\x1cf\r\ng é🙂"


def test_an_event_is_one_line_to_every_reader():
    event = sse({"text": ODD})
    response = httpx.Response(200, content=event.encode())
    line, empty = response.iter_lines()
    assert (event.splitlines(), empty) == ([line, ""], "")
    assert json.loads(line.removeprefix("data: ")) == {"text": ODD}
