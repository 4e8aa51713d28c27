"""Text from tokens: the same however many tokens arrive together, and one finish reason, in the last delta."""

import asyncio

import pytest

from deployments.gateway.text_stream import GenerationError, TextDelta, generate_text
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from tests.unit.byte_tokenizer import codec
from tests.unit.verifier_double import USAGE, VerifierDouble, serving

TEXT = "def add(a, b):\n    return 'é🙂'\n\nmore"
IDS = tuple(codec().encode(TEXT))
END = 0


def deltas(tokens: tuple[int, ...], step: int, stops: tuple[str, ...] = (), stop_tokens: tuple[int, ...] = (END,)) -> list[TextDelta]:
    async def run() -> list[TextDelta]:
        verifier = VerifierDouble("a", tokens=lambda request: tokens, step=step)
        async with serving(verifier) as routes:
            link = VerifierLink(5.0)
            link.update(routes)
            request = GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, len(tokens), stop_tokens, Speculation())
            found = [delta async for delta in generate_text(link, codec().token_bytes, request, stops)]
            await link.close()
        assert [bool(delta.finish_reason) for delta in found] == [False] * (len(found) - 1) + [True]
        return found

    return asyncio.run(run())


def joined(found: list[TextDelta]) -> tuple[str, int, str]:
    return "".join(d.text for d in found), sum(len(d.tokens) for d in found), found[-1].finish_reason


@pytest.mark.parametrize("step", [1, 3, 100])
def test_the_whole_text(step):
    found = deltas(IDS, step)
    assert joined(found) == (TEXT, len(IDS), "length")
    assert found[-1].usage == USAGE


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_stop_string_cuts_text_and_tokens_alike_for_every_step(step):
    kept = TEXT.split("\n\n")[0]
    text, count, reason = joined(deltas(IDS, step, stops=("\n\n",)))
    assert (text, reason) == (kept, "stop")
    assert codec()._backend.decode(IDS[:count]).startswith(kept + "\n\n")
    assert not codec()._backend.decode(IDS[: count - 1]).startswith(kept + "\n\n")


@pytest.mark.parametrize("step", [1, 100])
def test_a_stop_token_ends_the_text_and_has_none(step):
    assert joined(deltas((*IDS[:4], END), step))[0] == codec()._backend.decode(IDS[:4])
    visible = IDS[4]  # a stop token that is no special token
    text, count, reason = joined(deltas(IDS, step, stop_tokens=(visible,)))
    assert (text, count, reason) == (codec()._backend.decode(IDS[:4]), 5, "stop")


def test_what_was_held_back_comes_with_the_end():
    ids = tuple(codec().encode("end\n"))
    assert joined(deltas(ids, 1, stops=("\n\n",)))[0] == "end\n"


def test_a_verifiers_error_is_raised():
    async def run():
        verifier = VerifierDouble("a", step=100)
        verifier.reply = lambda request, index, output: GenerateReply(request.request_id, 1, 0, (), "error", "out of luck")
        async with serving(verifier) as routes:
            link = VerifierLink(5.0)
            link.update(routes)
            request = GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, 4, (END,), Speculation())
            with pytest.raises(GenerationError, match="out of luck"):
                _ = [delta async for delta in generate_text(link, codec().token_bytes, request, ())]
            await link.close()

    asyncio.run(run())
