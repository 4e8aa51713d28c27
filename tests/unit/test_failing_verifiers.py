"""Verifiers that answer with errors beside sound ones, over real gRPC: no client notices, and no request harms the pool."""

import asyncio
import logging
import time
from dataclasses import dataclass, replace

import grpc
import pytest

from deployments.gateway import verifier_link
from deployments.gateway.verifier_link import GenerationError, VerifierLink
from drafthouse.errors import OverloadError
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, RefusalKind
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.openai_gateway import COMPLETION, error_of, request
from tests.unit.verifier_double import VerifierDouble, cut_at, refusing, text_of

INSIDE = "RuntimeError: CUDA error at 0x7f"
POISON = (6, 6, 6)
NAMES = "abcde"


@dataclass
class Failing(VerifierDouble):
    """Gives up, with a last reply, requests of `poison`, or all, when they come to output token `error_at`."""

    poison: tuple[int, ...] | None = None
    error_at: int = 0

    def reply(self, request: GenerateRequest, index: int, output: tuple[int, ...]) -> GenerateReply:
        if index >= self.error_at and self.poison in (None, request.prompt):
            return GenerateReply(request.request_id, request.attempt, index, (), "error", INSIDE)
        return super().reply(request, index, output)


def named(number: int, prompt: tuple[int, ...] = REQUEST.prompt) -> GenerateRequest:
    return replace(REQUEST, request_id=f"{prompt}{number}", prompt=prompt)


@pytest.mark.parametrize("how", ["a last reply", "a broken stream"])
@pytest.mark.parametrize("together", [False, True])
def test_a_verifier_that_answers_with_errors_gets_no_traffic(how, together):
    """It has the lowest load by far, since nothing runs there."""

    async def run():
        bad = VerifierDouble("a", before=cut_at(0)) if how == "a broken stream" else Failing("a")
        sound = VerifierDouble("b", load=7)
        async with linked(bad, sound) as link:
            requests = [collect(link, named(number)) for number in range(40)]
            outputs = await asyncio.gather(*requests) if together else [await one for one in requests]
            asked = len(bad.seen)
            outputs += [await collect(link, named(number)) for number in range(40, 50)]
        assert [tokens_of(replies) for replies in outputs] == [text_of(REQUEST)] * 50
        assert len(bad.seen) == asked
        assert together or asked == 1

    asyncio.run(run())


def test_two_bad_verifiers_of_three():
    async def run():
        bad, sound = [Failing(name) for name in "ab"], VerifierDouble("c", load=7)
        async with linked(*bad, sound) as link:
            for number in range(10):
                assert tokens_of(await collect(link, named(number))) == text_of(REQUEST)
        assert [len(one.seen) for one in bad] == [1, 1]

    asyncio.run(run())


def test_an_error_in_the_middle_of_a_text_goes_on_elsewhere():
    async def run():
        bad, sound = Failing("a", error_at=4), VerifierDouble("b", load=7)
        async with linked(bad, sound) as link:
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert link.failovers == 1
        assert sound.seen == [replace(REQUEST, attempt=2, delivered=text_of(REQUEST)[:4], resumed=True, had_turn=True)]

    asyncio.run(run())


def test_a_request_that_an_error_sent_elsewhere_has_no_claim_to_a_place():
    """Otherwise a verifier with errors would fill the queues of the others without limit."""

    async def run():
        full = refusing(RefusalKind.FULL, "full", 2.0)
        bad, other = Failing("a"), VerifierDouble("b", before=full, load=7)
        async with linked(bad, other) as link:
            with pytest.raises(OverloadError) as refused:
                await collect(link)
        assert refused.value.retry_after_s == 2.0
        assert [one.resumed for one in other.seen] == [False]

    asyncio.run(run())


def test_a_poison_request_takes_no_verifier_out_of_rotation(caplog):
    async def run():
        verifiers = [Failing(name, poison=POISON) for name in NAMES]
        async with linked(*verifiers) as link:
            with pytest.raises(GenerationError) as error:
                await collect(link, named(0, POISON))
            assert INSIDE not in str(error.value)
            assert in_rotation(link) == NAMES
        assert sum(len(one.seen) for one in verifiers) == verifier_link.MAX_ERRORS

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert any(INSIDE in record.getMessage() for record in caplog.records), "the log has the reason"


def test_a_flood_of_poison_leaves_most_verifiers_in_rotation():
    async def run():
        verifiers = [Failing(name, poison=POISON) for name in NAMES]
        async with linked(*verifiers) as link:
            for number in range(30):
                with pytest.raises(GenerationError):
                    await collect(link, named(number, POISON))
                assert len(in_rotation(link)) > len(NAMES) / 2
                if number % 3 == 0:
                    assert tokens_of(await collect(link, named(number))) == text_of(REQUEST)

    asyncio.run(run())


def in_rotation(link: VerifierLink) -> str:
    now = time.monotonic()
    return "".join(name for name in NAMES if not link.routes._aside.failing(name, now))


def test_the_only_verifier_is_not_asked_again_for_what_it_gave_up():
    async def run():
        verifier = Failing("a", poison=POISON)
        async with linked(verifier) as link:
            with pytest.raises(GenerationError):
                await asyncio.wait_for(collect(link, named(0, POISON)), 2.0)
            assert len(verifier.seen) == 1
            assert tokens_of(await collect(link, named(1))) == text_of(REQUEST)

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_sees_a_typed_error(stream):
    response = request("/v1/completions", COMPLETION | {"stream": stream}, verifier=Failing("a"))
    assert error_of(response) == (500, "server_error", None, "generation_failed")
    assert "RuntimeError" not in response.text


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL])
def test_a_client_does_not_see_what_a_verifier_raised(code):
    response = request("/v1/completions", COMPLETION, verifier=VerifierDouble("a", status=code, details=INSIDE, before=cut_at(0)))
    assert error_of(response)[::3] == (503, "no_verifier")
    assert "RuntimeError" not in response.text
