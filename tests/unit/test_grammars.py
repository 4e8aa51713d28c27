"""Grammars: what compiles and what is refused, masks along tree paths, forced tokens, reasoning first."""

import json
import os
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from drafthouse.choose import Rows, choose, scores
from drafthouse.errors import OverloadError, RequestError
from drafthouse.grammars import compiler
from drafthouse.grammars.checker import GrammarChecker
from drafthouse.grammars.checker_process import fault_of
from drafthouse.grammars.compiler import GrammarCompiler, GrammarError
from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.processors.edits import Edits
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import MAX_GRAMMAR_BYTES, Grammar, SamplingParams, Thought
from drafthouse.stages.forced import ForcedStage
from drafthouse.stages.stage import NOTHING, SessionFacts
from tests.engine.grammars import END, text_of, tokenizer
from tests.engine.tiny_models import VOCAB_SIZE

COMPILER = GrammarCompiler(tokenizer)
WORDS = Grammar("regex", "(name|nap|true)(, |!)?")
ALL = [b"name", b"nap", b"true", b"name, ", b"nap, ", b"true, ", b"name!", b"nap!", b"true!"]
"""The texts of WORDS."""
CLOSED = {"type": "object", "properties": {"name": {"type": "boolean"}}, "required": ["name"], "additionalProperties": False}
OPEN, CLOSE = 3, 4
BYTES = {token: text_of([token]).encode() for token in range(32, 127)} | {token: text_of([token]).encode() for token in range(246, 255)}


def processor(grammar: Grammar, output: tuple[int, ...] = (), thought: Thought | None = None, vocab_size: int = VOCAB_SIZE):
    return GrammarProcessor(COMPILER.matcher(grammar), thought, (END,), output, vocab_size)


def bytes_of(tokens: tuple[int, ...]) -> bytes:
    return b"".join(BYTES.get(token, b"\xff") for token in tokens)


def allowed(mine: GrammarProcessor, paths: list[tuple[int, ...]], vocab_size: int = VOCAB_SIZE) -> list[set[int]]:
    """By row, as `Edits` make it."""
    edits = Edits()
    mine.edit(edits, 0, paths)
    kept = edits.applied(torch.zeros(len(paths), vocab_size))
    return [set(torch.nonzero(row == 0).flatten().tolist()) for row in kept]


def by_hand(path: tuple[int, ...]) -> set[int] | None:
    """Of WORDS: tokens with which some text still begins; None where nothing is said."""
    text = bytes_of(path)
    if END in path or not any(each.startswith(text) for each in ALL):
        return None
    left = {each[len(text) :] for each in ALL if each.startswith(text) and each != text}
    if not left:
        return None
    fitting = {token for token, piece in BYTES.items() if piece and any(each.startswith(piece) for each in left)}
    return fitting | ({END} if text in ALL else set())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_masks_along_tree_paths_are_those_of_brute_force(data: st.DataObject) -> None:
    """Whatever the tree, also below tokens that do not fit; and what is forced is the tokenizer's own token for the only text."""
    likely = st.sampled_from([ord(c) for c in "nameptru,! "] + list(range(246, 255)) + [END, 65])
    paths = {()}
    for _ in range(data.draw(st.integers(1, 10))):
        parent = data.draw(st.sampled_from(sorted(paths)))
        paths.add((*parent, data.draw(likely)))
    rows = sorted(paths)
    output = data.draw(st.sampled_from([(), (ord("n"),), (ord("t"), ord("r"))]))
    mine = processor(WORDS, output)
    for path, found in zip(rows, allowed(mine, rows), strict=True):
        expected = by_hand((*output, *path))
        if expected is None:
            assert found == set(range(VOCAB_SIZE))
        elif len(found) == 1 and found != expected:
            assert found < expected, "forced"
        else:
            assert found == expected
    mine.commit((ord("n"),) if not output else ())
    again = processor(WORDS, (*output, *([ord("n")] if not output else [])))
    assert allowed(mine, rows) == allowed(again, rows), "no trace"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_masks_that_are_not_needed_change_nothing(data: st.DataObject) -> None:
    """The choice with masks for some rows is the choice with masks for all."""
    likely = st.sampled_from([ord(c) for c in "nameptru,! "] + list(range(246, 255)) + [END, OPEN, CLOSE])
    paths = {()}
    for _ in range(data.draw(st.integers(1, 10))):
        paths.add((*data.draw(st.sampled_from(sorted(paths))), data.draw(likely)))
    rows, stops = sorted(paths), data.draw(st.sampled_from([(END,), (END, ord("!")), ()]))
    thought = data.draw(st.sampled_from([None, Thought(OPEN, CLOSE, True), Thought(OPEN, CLOSE, False)]))
    sampling = SamplingParams(
        data.draw(st.sampled_from([0.0, 0.8])), top_p=data.draw(st.sampled_from([1.0, 0.9])), min_tokens=data.draw(st.integers(0, 6)),
        logit_bias=tuple((token, 9.0) for token in data.draw(st.sets(likely, max_size=3))),
        bad_words=tuple((token,) for token in data.draw(st.sets(likely, max_size=3))), grammar=replace(WORDS, thought=thought),
    )  # fmt: skip
    grammar = GrammarProcessor(COMPILER.matcher(WORDS), thought, stops, (), VOCAB_SIZE)
    mine = processors_of(sampling, [1], (), stops, VOCAB_SIZE, [grammar])
    logits = 2 * torch.randn(len(rows) + 1, VOCAB_SIZE, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    other = Rows(SamplingParams(0.8), 3, [7])
    parts = [other, Rows(sampling, 5, [9 + len(path) for path in rows], rows, mine)]
    assert choose(logits, parts) == scores(logits, parts).argmax(-1).tolist()


def test_forced_tokens_are_the_tokenizers_own() -> None:
    mine = processor(Grammar("json_schema", json.dumps(CLOSED)))
    chain = mine.chain((), 32)
    assert text_of(chain) == '{"name": '
    assert [text_of([token]) for token in chain] == ["{", '"', "name", '":', " "]
    assert mine.chain((), 2) == chain[:2]
    assert mine.chain(tuple(chain), 8) == []
    assert text_of(mine.chain((*chain, ord("t")), 8)) == "rue}"
    assert mine.chain((ord("x"),), 8) == []


def test_the_chain_is_a_stage_of_its_own() -> None:
    mine, asked = processor(Grammar("json_schema", json.dumps(CLOSED))), []

    def chain(path, most):
        asked.append(path)
        return mine.chain(path, most)

    stage = ForcedStage(SessionFacts(SamplingParams(), 0, VOCAB_SIZE), chain)
    path: list[int] = []
    while (children := stage.children(path, 4)) is not NOTHING:
        path += children.tokens
    assert text_of(path) == '{"name": '
    assert asked == [()], "one look for all of it"
    mine.commit(path[:2])
    stage.follow(path[:2])
    assert stage.children((), 4).tokens == [path[2]]


def test_forced_tokens_are_counted() -> None:
    mine = processor(Grammar("json_schema", json.dumps(CLOSED)))
    mine.commit([*mine.chain((), 32), 253])
    assert text_of([253]) == "true"
    assert mine.forced_tokens == 5


class Counted:
    """A library that counts how it is asked for forced tokens."""

    def __init__(self, library, calls: list[str]):
        self.library, self.calls = library, calls

    def __getattr__(self, name: str):
        self.calls.append(name)
        return getattr(self.library, name)

    def deep_copy(self):
        return Counted(self.library.deep_copy(), self.calls)


def test_a_forced_text_is_read_once_for_each_way_along_it() -> None:
    calls: list[str] = []
    made = LLTokenizer(tokenizer())
    library = LLMatcher(made, LLMatcher.grammar_from_regex("ab(name, ){40}[cd]"))
    matcher = GrammarMatcher(Counted(library, calls), made.vocab_size, frozenset(made.eos_tokens))  # type: ignore[arg-type]
    mine = GrammarProcessor(matcher, None, (END,), (ord("a"),), VOCAB_SIZE)
    chain = mine.chain((), 32)
    assert len(chain) == 32
    mine.edit(Edits(), 0, [tuple(chain[:i]) for i in range(33)])
    mine.commit(chain)
    assert mine.forced_tokens == 32
    assert calls.count("compute_ff_tokens") == 1


def test_a_text_of_too_many_forced_tokens_is_refused() -> None:
    for grammar in (Grammar("regex", "(x,){5000}"), Grammar("regex", "[ab](x,){5000}")):
        assert "10,000 tokens in a row" in fault_of(COMPILER, grammar)
    assert fault_of(COMPILER, Grammar("regex", "(x,){2000}")) == ""


def test_a_mask_that_takes_too_many_items_ends_the_text() -> None:
    """Behind a beginning that is longer than what is tried of a grammar."""
    grammar = Grammar("lark", 'start: PRE s\nPRE: /[a-z]{40}/\ns: r{0,5000}\nr: "a"? "b"? "c"?\n')
    matcher = GrammarCompiler(tokenizer, most_items=500).matcher(grammar)
    mine = GrammarProcessor(matcher, None, (END,), (), VOCAB_SIZE)
    mine.commit(b"q" * 40)
    for _ in range(300):
        allowed(mine, [()])
        if mine.error:
            break
        mine.commit(b"a")
    assert "limit 500" in mine.error


def test_a_rejected_draft_beyond_the_librarys_limits_changes_nothing() -> None:
    """Nothing is said at its rows, and the text goes on as if they had not been."""
    narrow = GrammarCompiler(tokenizer, most_states=60)
    grammar = Grammar("regex", "a(b[a-z]{60}x|c[0-9]{3})")

    def at(*output: int) -> GrammarProcessor:
        return GrammarProcessor(narrow.matcher(grammar), None, (END,), output, VOCAB_SIZE)

    mine, draft = at(ord("a")), [ord("b"), *[ord("q")] * 50]
    rows = [tuple(draft[:i]) for i in range(len(draft) + 1)]
    allowed(mine, rows)
    assert tuple(draft) in mine.unsaid
    assert mine.error == ""
    allowed(mine, [*rows, (ord("c"),)])
    assert (ord("c"),) not in mine.unsaid
    mine.commit((ord("c"),))
    assert not mine.unsaid
    assert mine.error == ""
    assert allowed(mine, [(), (ord("7"),)]) == allowed(at(*b"ac"), [(), (ord("7"),)])
    committed = at(ord("a"))
    committed.commit(draft)
    allowed(committed, [()])
    assert "states" in committed.error


def test_a_drafted_id_that_no_token_has_changes_nothing() -> None:
    mine = processor(WORDS, vocab_size=VOCAB_SIZE + 40)
    first = allowed(mine, [(), (VOCAB_SIZE + 30,), (ord("n"),)], VOCAB_SIZE + 40)
    assert mine.error == ""
    assert first[2] == by_hand((ord("n"),))
    mine.commit((ord("n"),))
    assert allowed(mine, [()], VOCAB_SIZE + 40) == [by_hand((ord("n"),))]


def test_rows_below_the_root_are_bounded_in_time() -> None:
    seconds = iter([0.0, 0.001, 1.0, 1.0])
    mine = GrammarProcessor(COMPILER.matcher(WORDS), None, (END,), (), VOCAB_SIZE, clock=lambda: next(seconds))
    root, first, *late = allowed(mine, [(), (ord("n"),), tuple(b"na"), (ord("t"),)])
    assert (root, first) == (by_hand(()), by_hand((ord("n"),)))
    assert late == [set(range(VOCAB_SIZE))] * 2
    assert mine.unsaid == {tuple(b"na"), (ord("t"),)}


def test_the_text_may_end_only_where_it_is_complete() -> None:
    mine = processor(WORDS)
    name = tuple(b"name")
    (begun, whole, over) = allowed(mine, [name[:3], name, (*name, ord("!"))])
    assert END not in begun
    assert END in whole
    assert len(over) == VOCAB_SIZE, "nothing is said where nothing may follow"
    assert mine.ends((*name, ord("!"), ord("x"))) == 5
    assert mine.ends(name) is None
    assert mine.ends(()) is None


@pytest.mark.parametrize("inside", [True, False])
def test_the_grammar_begins_behind_the_reasoning(inside: bool) -> None:
    thought = Thought(OPEN, CLOSE, inside)
    start = () if inside else (OPEN,)
    paths = [(), (*start, 65), (*start, 65, CLOSE), (*start, CLOSE, *b"na"), (*start, CLOSE, *b"nap", CLOSE)]
    first, within, behind, later, unfit = allowed(processor(WORDS, (), thought), paths)
    beginnings = by_hand(())
    assert beginnings is not None
    assert first == (set(range(VOCAB_SIZE)) if inside else beginnings | {OPEN})
    assert len(within) == VOCAB_SIZE
    assert behind == beginnings
    assert later == by_hand(tuple(b"na"))
    assert len(unfit) == VOCAB_SIZE
    block = (*start, 65, 66, CLOSE, *b"na")
    whole = processor(WORDS, (), thought)
    whole.commit(block)
    assert allowed(whole, [()]) == allowed(processor(WORDS, block, thought), [()]) == [by_hand(tuple(b"na"))]
    assert whole.ends(tuple(b"me!x")) == 3


def test_a_model_of_fewer_or_more_tokens() -> None:
    small, large = processor(WORDS, vocab_size=100), processor(WORDS, vocab_size=300)
    (few,), (many,) = allowed(small, [()], 100), allowed(large, [()], 300)
    assert few == set(range(100)), "none of the tokens: nothing is said"
    assert many == by_hand(())


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (Grammar("regex", "(a|b"), "unclosed group"),
        (Grammar("lark", 'start: "a" nothing'), "nothing"),
        (Grammar("lark", 'begin: "a"'), "no start rule"),
        (Grammar("lark", 'start: ""'), "no text but the empty one"),
        (Grammar("json_schema", '{"type": "array", "uniqueItems": true}'), "uniqueItems"),
        (Grammar("json_schema", '{"if": {}, "then": {}}'), "if"),
        (Grammar("json_schema", '{"type": "nope"}'), "nope"),
        (Grammar("json_schema", '{"$ref": "http://example.com/schema"}'), "example.com"),
        (Grammar("json_schema", "[1]"), "object"),
        (Grammar("json_schema", '{"a":'), "JSON"),
        (Grammar("json_schema", '{"a":' * 5000 + "1" + "}" * 5000), "no JSON schema"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_in_the_librarys_words(grammar: Grammar, said: str) -> None:
    with pytest.raises(GrammarError, match=said) as caught:
        COMPILER.matcher(grammar)
    assert "<state>" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_grammar_is_bounded_in_bytes() -> None:
    for text in ("", "a" * (MAX_GRAMMAR_BYTES + 1)):
        with pytest.raises(RequestError, match="bytes"):
            SamplingParams(grammar=Grammar("regex", text)).check()
    with pytest.raises(RequestError, match="lark"):
        SamplingParams(grammar=Grammar("gbnf", "root ::= a")).check()  # type: ignore[arg-type]


def test_grammars_and_allowed_ids_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="exclude"):
        SamplingParams(grammar=WORDS, allowed_token_ids=(1,)).check()


def test_what_was_compiled_is_kept_up_to_a_limit_and_matchers_do_not_share_their_place() -> None:
    mine = GrammarCompiler(tokenizer)
    assert mine.known(WORDS) is None
    first = mine.matcher(WORDS)
    first.advance(ord("n"))
    second = mine.known(WORDS)
    assert second is not None
    assert not np.array_equal(first.allowed(), second.allowed())
    for i in range(compiler.KEPT):
        mine.matcher(Grammar("regex", f"a{i}"))
    assert mine.known(WORDS) is None
    assert mine.known(Grammar("regex", "a0")) is not None


def test_the_tokenizer_is_read_once_before_the_first_grammar() -> None:
    asked: list[int] = []

    def read() -> str:
        asked.append(1)
        return tokenizer()

    mine = GrammarCompiler(read)
    mine.prepare()
    assert asked == [1]
    mine.matcher(WORDS)
    assert asked == [1]
    none = GrammarCompiler()
    none.prepare()
    with pytest.raises(GrammarError, match="no tokenizer"):
        none.matcher(WORDS)


def test_many_threads_compile_at_once() -> None:
    mine, found = GrammarCompiler(tokenizer), list[bool]()
    grammars = [Grammar("regex", f"name{i % 5}") for i in range(20)]
    threads = [threading.Thread(target=lambda g=g: found.append(mine.matcher(g).fits)) for g in grammars]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


def children() -> set[int]:
    """The processes of this one."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_a_checker_that_ended_while_idle_is_replaced_and_a_closed_one_stays_closed() -> None:
    checker, before = GrammarChecker(tokenizer), children()
    checker.check(WORDS)
    (first,) = children() - before
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    checker.check(Grammar("regex", "another"))
    (second,) = children() - before
    assert second != first
    checker.close()
    assert children() == before
    checker.check(WORDS)  # is known
    with pytest.raises(OverloadError, match="stops"):
        checker.check(Grammar("regex", "a third"))


def test_a_checker_works_where_descriptors_have_large_numbers() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    checker = GrammarChecker(tokenizer)
    try:
        assert max(held) > 1024
        checker.check(WORDS)
        with pytest.raises(GrammarError, match="unclosed"):
            checker.check(Grammar("regex", "(a"))
    finally:
        checker.close()
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


CHAIN = "start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1}' for i in range(6000)) + '\nr6000: "x"'
"""Rules that call each other 6,000 deep: the library's recursion takes more stack than any thread has."""


def test_grammars_that_hang_or_crash_the_library_are_refused_and_the_next_one_is_served() -> None:
    checker = GrammarChecker(tokenizer)
    try:
        checker.check(WORDS)
        for harmful in (Grammar("lark", CHAIN), Grammar("regex", "a?" * 20_000)):
            with pytest.raises(GrammarError, match="too complex"):
                checker.check(harmful)
            checker.check(Grammar("regex", f"next{len(harmful.text)}"))
        with pytest.raises(GrammarError, match="unclosed"):
            checker.check(Grammar("regex", "(a"))
        wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1200)}}
        with pytest.raises(GrammarError, match="max is 2000"):
            checker.check(Grammar("json_schema", json.dumps(wide)))
    finally:
        checker.close()
