"""Text from tokens: the same however many tokens arrive together, and one finish reason, in the last delta."""

import asyncio

import pytest

from deployments.gateway.detokenizer import byte_level_alphabet
from deployments.gateway.text_stream import StopRule, TextDelta, generate_text
from deployments.gateway.verifier_link import GenerationError, VerifierLink
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.verifier_double import USAGE, Drafting, VerifierDouble, serving

TEXT = "def add(a, b):\n    return 'é🙂'\n\nmore"
IDS = tuple(codec().encode(TEXT))
END = 0


def deltas(
    tokens: tuple[int, ...], step: int, stops: tuple[str, ...] | StopRule = (), stop_tokens: tuple[int, ...] = (END,), double=VerifierDouble
) -> list[TextDelta]:
    async def run() -> list[TextDelta]:
        verifier = double("a", tokens=lambda request: tokens, step=step)
        async with serving(verifier) as routes:
            link = VerifierLink(5.0)
            link.update(routes)
            request = GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, len(tokens), stop_tokens, Speculation())
            rule = stops if isinstance(stops, StopRule) else StopRule(stops)
            found = [delta async for delta in generate_text(link, codec().token_bytes, request, rule)]
            await link.close()
        assert [bool(delta.finish_reason) for delta in found] == [False] * (len(found) - 1) + [True]
        return found

    return asyncio.run(run())


def joined(found: list[TextDelta]) -> tuple[str, int, str]:
    return "".join(d.text for d in found), sum(len(d.tokens) for d in found), found[-1].finish_reason


@pytest.mark.parametrize("step", [1, 3, 100])
def test_what_ends_a_text_may_stand_in_it(step):
    assert joined(deltas(IDS, step, StopRule(("return",), include=True)))[0] == TEXT[: TEXT.index("return") + 6]
    tool = next(token for token in range(metadata().vocab_size) if codec().token_bytes[token] == b"<tool>")
    assert joined(deltas((*IDS, tool, 5), step, StopRule(include=True), (tool,))) == (TEXT + "<tool>", len(IDS) + 1, "stop")
    assert joined(deltas((*IDS, tool, 5), step, StopRule(), (tool,))) == (TEXT, len(IDS) + 1, "stop")


@pytest.mark.parametrize("step", [1, 3, 100])
def test_the_first_tokens_are_not_searched_for_stop_strings(step):
    ids = tuple(codec().encode("a b a b a"))
    for least in range(len(ids) + 1):
        text, count, _ = joined(deltas(ids, step, StopRule(("b",), min_tokens=least)))
        first = codec().text_of(ids[:least])
        rest = codec().text_of(ids[least:])
        assert text == first + rest.partition("b")[0]
        assert count >= least


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


def bytes_of(data: bytes) -> tuple[int, ...]:
    """One token for each byte."""
    chars = {byte: char for char, byte in byte_level_alphabet().items()}
    return tuple(codec()._backend.token_to_id(chars[byte]) for byte in data)


@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize("stop_tokens", [(END,), ()])
def test_a_character_cut_off_by_the_end_may_complete_a_stop_string(step, stop_tokens):
    cut_off = (*bytes_of(b"ab" + "é".encode()[:1]), *stop_tokens)
    assert joined(deltas(cut_off, step, ("\ufffd",), stop_tokens)) == ("ab", len(cut_off), "stop")
    assert joined(deltas(cut_off, step, ("b\ufffd",), stop_tokens)) == ("a", len(cut_off), "stop")
    assert joined(deltas(cut_off, step, ("x",), stop_tokens))[0] == "ab\ufffd"


@pytest.mark.parametrize("step", [1, 100])
def test_a_stop_string_within_the_last_token_that_is_allowed_is_a_stop(step):
    ids = tuple(codec().encode("return"))
    assert codec().token_bytes[ids[0]] == b"ret"
    assert joined(deltas(ids[:1], step, ("e",))) == ("r", 1, "stop")
    assert joined(deltas(ids[:1], step, ("ets",))) == ("ret", 1, "length")  # begun, but never complete


@pytest.mark.parametrize("step", [1, 3, 4, 5, 100])
def test_drafts_accepted_behind_a_stop_string_do_not_count(step):
    ids = bytes_of(b"abcdefghijkl")
    found = deltas(ids, step, ("c",), double=Drafting)
    completion_tokens, accepted = joined(found)[1], found[-1].usage.accepted
    assert completion_tokens == 3
    assert accepted == {1: 0, 3: 2}.get(step, 3)
    assert found[-1].usage.steps == (3 if step == 1 else 1)
    assert [accepted for delta in found for accepted in delta.accepted] == ([0, 0, 0] if step == 1 else [accepted])
    assert [delta.stop_string for delta in found] == [""] * (len(found) - 1) + ["c"]


def test_steps_that_verified_no_draft_are_not_among_those_that_accepted_some():
    assert sum(len(delta.accepted) for delta in deltas(IDS, 1)) == 1, "the double counts its drafts at once"


@pytest.mark.parametrize("step", [1, 3, 100])
def test_without_a_cut_all_accepted_drafts_count(step):
    ids = bytes_of(b"abcdefghijkl")
    steps = -(-len(ids) // step)
    found = deltas(ids, step, double=Drafting)
    assert found[-1].usage == SpeculationUsage(9 * steps, 8 * steps, len(ids) - steps, steps)
    assert sum((delta.accepted for delta in found), ()) == (min(step, len(ids)) - 1,) * steps


def test_a_verifiers_error_is_raised():
    async def run():
        verifier = VerifierDouble("a", step=100)
        verifier.reply = lambda request, index, output: GenerateReply(request.request_id, 1, 0, (), "error", "out of luck")
        async with serving(verifier) as routes:
            link = VerifierLink(5.0)
            link.update(routes)
            request = GenerateRequest("r", 1, (1,), (), SamplingParams(), 0, 4, (END,), Speculation())
            with pytest.raises(GenerationError, match="given up by 1 verifier"):
                _ = [delta async for delta in generate_text(link, codec().token_bytes, request, StopRule())]
            await link.close()

    asyncio.run(run())
