"""Blocks of an answer: in the order in which the model wrote them, whatever arrives together."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.gateway.answer_blocks import AnswerBlocks, Begun, Block, BlockEvent, Ended, Grown
from deployments.parsers.parsed import CallDelta, Parsed
from tests.unit.byte_tokenizer import codec
from tests.unit.scripted_deltas import deltas_of, hermes, split

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
PIECES = [CALL, CALL.replace("weather", "time"), "<think>", "</think>", "<tool_call>", "</tool_call>", "text", "é🙂", " ", "\n\n", "{", "<"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


def run(pieces: list[tuple[int, ...]], reason: str = "stop") -> tuple[list[Block], list[BlockEvent]]:
    blocks = AnswerBlocks(lambda index: f"call-{index}")
    events = [event for delta in deltas_of(pieces, hermes(), reason) for event in blocks.add(delta)]
    return blocks.blocks, events


def said(blocks: list[Block]) -> list[tuple[str, str, str, str]]:
    return [(block.kind, block.name, block.call_id, block.text) for block in blocks]


def test_what_was_thought_said_and_called_comes_in_its_order():
    text = f"<think>hm</think>I look. {CALL} Then: {CALL}{CALL.replace('weather', 'time')}done"
    city = '{"city": "Zürich"}'
    for pieces in (split(text, []), split(text, range(1000))):
        assert said(run(pieces)[0]) == [
            ("reasoning", "", "", "hm"),
            ("text", "", "", "I look."),
            ("call", "weather", "call-0", city),
            ("text", "", "", " Then:"),
            ("call", "weather", "call-1", city),
            ("call", "time", "call-2", city),
            ("text", "", "", "done"),
        ]


@settings(max_examples=150)
@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=4))
@example(CALL + "x" + CALL, [])
def test_every_split_of_an_output_gives_the_blocks_of_the_whole(text, cuts):
    whole = said(run(split(text, []))[0])
    for pieces in (split(text, cuts), split(text, range(len(codec().encode(text))))):
        blocks, events = run(pieces)
        assert said(blocks) == whole
        assert_well_formed(blocks, events)


def assert_well_formed(blocks: list[Block], events: list[BlockEvent]) -> None:
    """Each block begins, grows to what it holds, and ends, before the next one begins."""
    grown: dict[int, str] = {}
    open_block: Block | None = None
    for event in events:
        match event:
            case Begun(block):
                assert open_block is None
                assert block.index == len(grown)
                open_block, grown[block.index] = block, ""
            case Grown(block, text):
                assert block is open_block
                assert text
                grown[block.index] += text
            case Ended(block):
                assert block is open_block
                open_block = None
    assert open_block is None
    assert [grown[block.index] for block in blocks] == [block.text for block in blocks]


def test_an_answer_of_nothing_has_no_blocks():
    assert run([(0,)]) == ([], [])


def test_a_call_that_is_cut_off_ends_with_the_answer():
    blocks, events = run(split(CALL[: CALL.index("rich")], []), "length")
    assert said(blocks) == [("call", "weather", "call-0", '{"city": "Zü')]
    assert isinstance(events[-1], Ended)


@pytest.mark.parametrize("first", [Parsed("abc"), Parsed("a") + Parsed("bc"), Parsed("abc", "thought")])
def test_a_sum_knows_what_stands_before_each_call(first):
    second = Parsed(calls=(CallDelta(0, "f"),)) + Parsed("d") + Parsed(calls=(CallDelta(0, "", "{}"),))
    assert [call.before for call in (first + second).calls] == [3, 4]
