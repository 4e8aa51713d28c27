"""Grammars at every node of a tree: speculation on equals off, what comes out fits, and what is forced costs no step."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drafthouse.choose import Rows, choose
from drafthouse.engine.loader import LoadedModel
from drafthouse.errors import RequestError
from drafthouse.grammars.compiler import GrammarCompiler
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import Grammar, SamplingParams, Thought
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from tests.engine.grammars import END, text_of, tokenizer
from tests.engine.oracle import next_logits
from tests.engine.pairs import loaded, noisy_copy, pair, prompts, request
from tests.engine.servers import refusal, replies_of, run, start_verifier
from tests.engine.tiny_models import VOCAB_SIZE, tiny

TOKENS = 60
TEXTS = prompts(2, longest=20)
OPEN, CLOSE = 200, 201
THOUGHT = Thought(OPEN, CLOSE, inside=True)
COMPILER = GrammarCompiler(tokenizer)


def closed(**properties: object) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


POINT = closed(x={"type": "integer"}, name={"type": "boolean"})
SCHEMAS = [
    closed(name={"enum": ["red", "green", "true"]}),
    closed(a=POINT, b={"type": "array", "items": POINT, "maxItems": 2}),
    closed(p={"$ref": "#/$defs/p"}) | {"$defs": {"p": POINT}},
    closed(d={"type": "string", "pattern": "^[0-9]{2}-[ab]$"}, e={"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 4}]}),
]
GRAMMARS = [
    *(Grammar("json_schema", json.dumps(schema)) for schema in SCHEMAS),
    Grammar("regex", "(yes|no|name){1,3}!"),
    Grammar("lark", 'start: "name" ("a" | "b")+ end\nend: ";" | "."'),
    Grammar("json_schema", json.dumps(SCHEMAS[0]), THOUGHT),
    Grammar("json_schema", json.dumps(SCHEMAS[0]), replace(THOUGHT, inside=False)),
]
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([0.9, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    min_tokens=st.integers(0, 12),
    logit_bias=st.dictionaries(st.integers(30, 130), st.floats(-8, 8, width=32), max_size=4).map(lambda bias: tuple(bias.items())),
    bad_words=st.lists(st.lists(st.integers(30, 130), min_size=1, max_size=2).map(tuple), max_size=3).map(tuple),
)


@cache
def models() -> tuple[LoadedModel, LoadedModel]:
    """A target and a draft that agrees now and then, of one tokenizer."""
    target, draft = loaded(tiny("llama")), loaded(noisy_copy("llama", 0, 0.02))
    return replace(target, tokenizer=tokenizer), replace(draft, tokenizer=tokenizer)


def replies(mode: str, asked: GenerateRequest, drafts: bool = True) -> list[GenerateReply]:
    target, draft = models()
    both = pair(target, [draft] if drafts else [])
    both.verifier.submit(replace(asked, speculation=replace(asked.speculation, mode=mode)))
    found: list[GenerateReply] = []
    while not (found and found[-1].finish_reason):
        found += both.turn()
    return found


def tokens_of(found: Sequence[GenerateReply]) -> list[int]:
    return [token for reply in found for token in reply.tokens]


def by_oracle(asked: GenerateRequest) -> list[int]:
    """One full forward pass for each token, and a matcher that is made again for each."""
    grammar, tokens = asked.sampling.grammar, list(asked.prompt)
    assert grammar is not None
    for position in range(len(tokens), len(tokens) + asked.max_tokens):
        output, logits = tokens[len(asked.prompt) :], next_logits(tiny("llama"), tokens)
        matcher = COMPILER.matcher(grammar)
        mine = GrammarProcessor(matcher, grammar.thought, asked.stop_tokens, output, VOCAB_SIZE)
        processors = processors_of(asked.sampling, asked.prompt, output, asked.stop_tokens, VOCAB_SIZE, [mine])
        token = choose(logits, [Rows(asked.sampling, asked.seed, [position], processors=processors)])[0]
        tokens.append(token)
        if token in asked.stop_tokens or mine.ends([token]) is not None:
            break
    return tokens[len(asked.prompt) :]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SAMPLINGS, st.sampled_from(GRAMMARS), st.integers(0, 1000), st.sampled_from(["auto", "fixed"]))
def test_speculation_on_equals_off(sampling: SamplingParams, grammar: Grammar, seed: int, mode: str) -> None:
    """In float64 with zero tolerance; and the oracle's text."""
    asked = request("a", TEXTS[0], TOKENS, replace(sampling, grammar=grammar), seed, stop_tokens=(END,))
    off = replies("off", asked)
    on = replies(mode, asked)
    assert tokens_of(on) == tokens_of(off)
    assert on[-1].finish_reason == off[-1].finish_reason
    if seed % 3 == 0:
        assert tokens_of(off) == by_oracle(asked)


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_comes_out_fits_the_schema(schema: dict, temperature: float) -> None:
    sampling = SamplingParams(temperature, grammar=Grammar("json_schema", json.dumps(schema)))
    fitting = 0
    for seed in range(4):
        found = replies("auto", request("a", TEXTS[1], TOKENS, sampling, seed, stop_tokens=(END,)))
        if found[-1].finish_reason == "stop":  # an integer may go on until the limit
            jsonschema.validate(json.loads(text_of(tokens_of(found))), schema)
            fitting += 1
    assert fitting


def test_the_text_ends_where_nothing_can_follow_without_any_stop_token() -> None:
    sampling = SamplingParams(1.0, min_tokens=50, grammar=Grammar("regex", "name(a|b)!"))
    for mode in ("off", "auto"):
        found = replies(mode, request("a", TEXTS[0], TOKENS, sampling))
        assert text_of(tokens_of(found)) in ("namea!", "nameb!")
        assert found[-1].finish_reason == "stop"


def test_forced_tokens_are_drafted_without_a_drafter_and_never_refused() -> None:
    sampling = SamplingParams(1.0, grammar=Grammar("json_schema", json.dumps(SCHEMAS[0])))
    asked = request("a", TEXTS[0], TOKENS, sampling, stop_tokens=(END,))
    off, on = replies("off", asked, drafts=False), replies("auto", asked, drafts=False)
    usage, length = on[-1].usage, len(tokens_of(on))
    assert usage.verified == usage.accepted > 0
    assert on[-1].usage.forced == off[-1].usage.forced >= usage.accepted
    assert usage.steps <= length - usage.accepted + 1 < off[-1].usage.steps


def test_a_resumed_text_goes_on_in_its_grammar() -> None:
    """At each place: also within the reasoning, at its end and behind it."""
    for grammar in (GRAMMARS[1], GRAMMARS[6]):
        asked = request("a", TEXTS[0], TOKENS, SamplingParams(0.8, logit_bias=((CLOSE, 6.0),), grammar=grammar), 7, stop_tokens=(END,))
        whole = tokens_of(replies("off", asked))
        for count in (1, len(whole) // 2, len(whole) - 1):
            resumed = replace(asked, delivered=tuple(whole[:count]))
            assert whole[:count] + tokens_of(replies("auto", resumed)) == whole


def test_the_grammar_begins_behind_the_reasoning() -> None:
    sampling = SamplingParams(1.0, logit_bias=((CLOSE, 5.0),), grammar=GRAMMARS[6])
    found = replies("auto", request("a", TEXTS[0], TOKENS, sampling, 3, stop_tokens=(END,)))
    tokens = tokens_of(found)
    assert CLOSE in tokens[1:]
    jsonschema.validate(json.loads(text_of(tokens[tokens.index(CLOSE) + 1 :])), SCHEMAS[0])


def test_drafts_are_ranked_under_the_grammar() -> None:
    """A perfect draft misses nothing, also where the target's own choice would be another."""
    target, _ = models()
    both = pair(target, [replace(loaded(tiny("llama")), tokenizer=tokenizer)])
    grammar = Grammar("regex", "(name|true|[a-f])+;")
    both.generate([request("warm", TEXTS[1], 4, SamplingParams(0.0, grammar=grammar))])
    found = both.verifier.meter.totals
    before = found.verified, found.accepted
    both.generate([request("a", TEXTS[0], 40, SamplingParams(1.0, grammar=grammar), 3, "fixed", nodes=4, depth=4, width=1)])
    verified, accepted = found.verified - before[0], found.accepted - before[1]
    assert verified >= 20
    assert accepted >= 0.8 * verified, "the last tree goes beyond the end"


def test_a_grammar_beyond_the_librarys_limits_fails_its_own_request() -> None:
    target, _ = models()
    both = pair(target, [])
    wide = GrammarCompiler(tokenizer, most_states=50).matcher(Grammar("regex", "[a-z]{30,40}x"))  # passes them within the text
    both.verifier.submit(request("a", TEXTS[0], TOKENS, SamplingParams(1.0, grammar=GRAMMARS[5])), wide)
    both.verifier.submit(request("b", TEXTS[1], 8))
    found: list[GenerateReply] = []
    while len([reply for reply in found if reply.finish_reason]) < 2:
        found += both.turn()
    last = {reply.request_id: reply for reply in found if reply.finish_reason}
    assert (last["a"].finish_reason, last["b"].finish_reason) == ("refused", "length")
    assert "too many states" in last["a"].error


def test_it_is_the_requests_fault_towards_the_gateway() -> None:
    """So no other verifier is tried. What else goes wrong while its grammar is compiled ends the request, too."""

    async def test() -> None:
        server, stream = await start_verifier()
        try:
            server.loop.engine.grammars = GrammarCompiler(tokenizer, most_states=50)
            sampling = SamplingParams(1.0, grammar=Grammar("regex", "[a-z]{30,40}x"))
            kind, said = await refusal(stream, request("a", TEXTS[0], TOKENS, sampling))
            assert kind is RequestError
            assert "too many states" in said

            def broken() -> str:
                raise OSError("no such file")

            server.loop.engine.grammars = GrammarCompiler(broken)
            (last,) = await replies_of(stream, request("b", TEXTS[0], TOKENS, sampling))
            assert (last.finish_reason, last.error) == ("error", "OSError: no such file")
        finally:
            await stream.close()
            await server.stop()

    run(test)


def test_rows_that_time_does_not_suffice_for_change_no_token() -> None:
    """Below the root nothing is said: each step ends before the first accepted row, and the text is the same."""
    target, _ = models()
    both = pair(target, [replace(loaded(tiny("llama")), tokenizer=tokenizer)])
    asked = request("a", TEXTS[0], TOKENS, SamplingParams(1.0, grammar=GRAMMARS[0]), 3, "fixed", stop_tokens=(END,))
    both.verifier.submit(asked)
    grammar = both.verifier.sequences["a"].grammar
    assert grammar is not None
    grammar.clock = itertools.count().__next__  # a second at each look
    found: list[GenerateReply] = []
    while not found or not found[-1].finish_reason:
        found += both.turn()
    assert tokens_of(found) == tokens_of(replies("off", replace(asked, speculation=request("", TEXTS[0], 1).speculation)))
    assert both.verifier.meter.totals.verified > 0
    assert max(len(reply.tokens) for reply in found) == 1


def test_no_tokenizer_no_grammar() -> None:
    both = pair(loaded(tiny("llama")), [])
    with pytest.raises(Exception, match="no tokenizer"):
        both.verifier.submit(request("a", TEXTS[0], 8, SamplingParams(grammar=GRAMMARS[0])))
