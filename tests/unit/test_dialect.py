"""Gateways and verifiers of different versions, by what they say of themselves when the stream opens."""

import asyncio
from dataclasses import fields, replace

import pytest
import torch

from deployments.gateway.verifier_link import NoVerifierError
from drafthouse.choose import Rows, scores
from drafthouse.sampling import Grammar, SamplingParams, ThinkingBudget
from drafthouse.token_logprobs import LogprobsWish
from drafthouse.wire.dialect import (
    BEFORE,
    LEAST_TOP_P,
    MAX_SAID_CHARS,
    OURS,
    SAMPLING,
    WIRE_METADATA,
    Dialect,
    Feature,
    IncompatibleError,
    needed_by,
    said_in,
)
from drafthouse.wire.session_messages import Hold, Open
from tests.unit.linked import REQUEST, collect, linked, tokens_of
from tests.unit.verifier_double import VerifierDouble, text_of

PLAIN = Dialect(1, 1, frozenset()).metadata()
"""Of a peer that knows nothing beyond the first version."""

PENALISED = replace(REQUEST, sampling=SamplingParams(repetition_penalty=1.2))


def test_what_is_said_is_read_again_and_names_of_later_versions_are_kept() -> None:
    assert said_in(OURS.metadata()) == OURS
    later = said_in([("user-agent", "x"), (WIRE_METADATA, "1-3 hold telepathy")])
    assert later == Dialect(1, 3, frozenset({"hold", "telepathy"}))
    OURS.check(later, "verifier")


def test_a_peer_that_says_nothing_is_from_before_it_was_said() -> None:
    assert said_in([]) == Dialect(1, 1, BEFORE)


@pytest.mark.parametrize("said", ["", "1", "1-", "x-1 hold", "-1", "1-1 " + "a" * MAX_SAID_CHARS])
def test_what_cannot_be_read_is_incompatible(said: str) -> None:
    with pytest.raises(IncompatibleError, match="OLDEST-NEWEST"):
        said_in([(WIRE_METADATA, said)])


def test_peers_without_a_common_version_do_not_talk_and_the_older_one_is_named() -> None:
    ours = Dialect(2, 3)
    ours.check(Dialect(1, 2), "verifier")
    ours.check(Dialect(3, 9), "verifier")
    with pytest.raises(IncompatibleError, match="the verifier speaks versions 1 to 1 .*this side 2 to 3: upgrade the verifier first"):
        ours.check(Dialect(1, 1), "verifier")
    with pytest.raises(IncompatibleError, match="versions 4 to 5 .*: upgrade the other side first"):
        ours.check(Dialect(4, 5), "drafter")


def test_an_older_drafter_is_sent_a_value_of_top_p_that_it_takes_and_that_means_the_same() -> None:
    def opened(top_p: float) -> Open:
        return Open("a", 1, (1,), SamplingParams(0.8, top_p=top_p), 0, 1, "f", 8, 4, 0.1, 256)

    older = Dialect(1, 1, BEFORE)
    for top_p in (1.0, 0.5):
        assert older.worded(opened(top_p)) == opened(top_p)
    assert OURS.worded(opened(0.0)) == opened(0.0)
    assert older.worded(Hold("a", 1)) == Hold("a", 1)
    sent = older.worded(opened(0.0))
    assert sent == opened(LEAST_TOP_P)
    assert sent.sampling.top_p > 0.0
    logits = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    found = [scores(logits, [Rows(each.sampling, 3, range(4))]) for each in (sent, opened(0.0))]
    assert torch.equal(*found)
    assert found[0].isfinite().sum(1).tolist() == [1] * 4


def test_a_request_needs_what_it_sets_and_nothing_else() -> None:
    assert needed_by(REQUEST) == set()
    assert needed_by(PENALISED) == {Feature.REPETITION_PENALTY}
    every = SamplingParams(
        top_p=0.0, repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=1.0, min_tokens=1, logit_bias=((1, 1.0),),
        allowed_token_ids=(1,), bad_words=((1,),),
        thinking=ThinkingBudget(1, 2, 3, False), grammar=Grammar("regex", "a"),
    )  # fmt: skip
    assert needed_by(replace(REQUEST, sampling=every, logprobs=LogprobsWish(0, 0))) >= set(SAMPLING.values()) | {
        Feature.LOGPROBS, Feature.PROMPT_LOGPROBS, Feature.TOP_P_0,
    }  # fmt: skip
    assert {field.name for field in fields(SamplingParams)} - SAMPLING.keys() == {"temperature", "top_k", "top_p", "min_p"}


def test_every_name_in_the_table_is_a_field_of_sampling() -> None:
    assert SAMPLING.keys() <= {field.name for field in fields(SamplingParams)}


def test_a_request_goes_to_a_verifier_that_knows_what_it_asks_for() -> None:
    """The older one is the least loaded, and serves all others; none of this speaks against it."""

    async def test() -> None:
        older, newer = VerifierDouble("older", says=PLAIN), VerifierDouble("newer", load=5, says=OURS.metadata())
        async with linked(older, newer) as link:
            assert tokens_of(await collect(link, PENALISED)) == text_of(PENALISED)
            assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert (link.failovers, link.incompatible) == (0, {})
        assert [[request.sampling for request in verifier.seen] for verifier in (older, newer)] == [
            [REQUEST.sampling],
            [PENALISED.sampling],
        ]
        assert older.told == newer.told == [OURS]

    asyncio.run(test())


def test_where_no_verifier_knows_what_a_request_asks_for_it_is_told_so_at_once() -> None:
    async def test() -> None:
        async with linked(VerifierDouble("older", says=PLAIN), patience_s=60.0) as link:
            with pytest.raises(NoVerifierError, match="older: it is of an older version, without repetition_penalty"):
                await asyncio.wait_for(collect(link, PENALISED), 10)

    asyncio.run(test())


def test_a_text_that_has_begun_waits_for_a_verifier_that_knows() -> None:
    """Its own one is upgraded while all others are still old."""

    async def test() -> None:
        older, newer = VerifierDouble("older", says=PLAIN), VerifierDouble("newer", says=OURS.metadata())
        begun = replace(PENALISED, delivered=text_of(PENALISED)[:3])
        async with linked(older, newer) as link:
            newer_route = newer.route
            link.update((older.route,))
            waiting = asyncio.create_task(collect(link, begun))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            link.update((older.route, newer_route))
            assert tokens_of(await asyncio.wait_for(waiting, 10)) == text_of(PENALISED)[3:]

    asyncio.run(test())


def test_a_verifier_that_says_nothing_gets_what_was_known_before() -> None:
    async def test() -> None:
        silent = VerifierDouble("silent")
        async with linked(silent) as link:
            assert tokens_of(await collect(link, PENALISED)) == text_of(PENALISED)

    asyncio.run(test())


def test_a_verifier_without_a_common_version_is_set_aside_and_the_reason_shown() -> None:
    async def test() -> None:
        foreign, fit = VerifierDouble("foreign", says=((WIRE_METADATA, "7-9"),)), VerifierDouble("fit", load=5)
        async with linked(foreign, fit) as link:
            for _ in range(3):
                assert tokens_of(await collect(link)) == text_of(REQUEST)
            assert link.incompatible.keys() == {"foreign"}
            assert "versions 7 to 9" in link.incompatible["foreign"]
            link.update((fit.route,))
            assert link.incompatible == {}
        assert (foreign.seen, foreign.streams, len(fit.seen)) == ([], 1, 3)

    asyncio.run(test())
