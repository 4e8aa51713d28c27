"""Server-sent events survive clients that read by lines, whatever a text holds."""

import json

import httpx
import pytest

from deployments.api.openai.responses import Answerer, sse
from deployments.gateway.output_format import OutputFormat
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from tests.unit.byte_tokenizer import codec

ODD = "a\x85b\u2028c\u2029d\x0be\x1cf\r\ng é🙂"


def test_an_event_is_one_line_to_every_reader():
    event = sse({"text": ODD})
    response = httpx.Response(200, content=event.encode())
    line, empty = response.iter_lines()
    assert (event.splitlines(), empty) == ([line, ""], "")
    assert json.loads(line.removeprefix("data: ")) == {"text": ODD}


@pytest.mark.parametrize("text", ['a"\\\n', "\u2028é🙂", "\0text\0"])
@pytest.mark.parametrize("usage", [{}, {"usage": None}])
def test_a_chunk_in_the_middle_differs_from_the_last_in_its_finish_reason_alone(text, usage):
    """The last is made by the models, those before it from what stands around their text."""
    request = GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, 9, (), Speculation())
    plan = RequestPlan("cmpl-1", (request,), (), 0, 1, OutputFormat(codec().token_bytes))
    answerer = Answerer(plan, "demo", chat=False, token_bytes=codec().token_bytes)
    middle, last = (answerer.events(0, TextDelta(text, (1,), 0, 1, reason), usage) for reason in ("", "length"))
    assert middle == last.replace('"finish_reason":"length"', '"finish_reason":null')
    assert json.loads(middle.removeprefix("data: "))["choices"][0]["text"] == text
