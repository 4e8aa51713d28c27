"""A gateway's link to verifiers of a test, and all that comes of one request."""

from collections.abc import Sequence
from contextlib import aclosing, asynccontextmanager

from deployments.gateway.verifier_link import VerifierLink
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.membership import Route
from tests.unit.verifier_double import VerifierDouble, serving

REQUEST = GenerateRequest("r1", 1, (3, 1, 4), (), SamplingParams(), 42, 9, (0,), Speculation())
GONE = Route("gone", "127.0.0.1:1", "f", 0, 8)


@asynccontextmanager
async def linked(*verifiers: VerifierDouble, patience_s: float = 5.0):
    async with serving(*verifiers) as routes:
        link = VerifierLink(patience_s)
        link.update(routes)
        try:
            yield link
        finally:
            await link.close()


async def collect(link: VerifierLink, request: GenerateRequest = REQUEST) -> list[GenerateReply]:
    """All replies; checks that their tokens are in order and without a gap."""
    replies, done = [], len(request.delivered)
    async with aclosing(link.generate(request)) as stream:
        async for arrived in stream:
            assert arrived
            for reply in arrived:
                assert reply.first_token_index == done
                done += len(reply.tokens)
                replies.append(reply)
    assert [bool(reply.finish_reason) for reply in replies] == [False] * (len(replies) - 1) + [True]
    return replies


def tokens_of(replies: Sequence[GenerateReply]) -> tuple[int, ...]:
    return tuple(token for reply in replies for token in reply.tokens)
