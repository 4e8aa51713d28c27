"""Parsers of calls and reasoning: what they find, and that it does not depend on how the text is split."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.parsers.output_parser import OutputParser
from deployments.parsers.parsed import Parsed, ToolParser, join_calls
from deployments.parsers.registry import THINK_TAGS, TOOL_FORMATS, think_tags, tool_format
from deployments.parsers.thinking import ThinkParser
from drafthouse.config.api import REASONING_PARSERS, TOOL_PARSERS
from drafthouse.errors import ConfigError

NAMES = frozenset({"weather", "think"})
WEATHER = '{"name": "weather", "arguments": {"city": "Zürich"}}'
TRICKY = '{"city": "}]</tool_call>\\" [TOOL_CALLS] <think> é🙂\\\\", "x": [1, {}]}'
PIECES = [
    "<tool_call>", "</tool_call>", WEATHER, '{"name": "weather", "arguments": ' + TRICKY + "}", '{"arguments": {"x": 1}, "name": "think"}',
    '{"name": "weather", "parameters": {}}; ', '{"name": "weather", "arguments": "{\\"a\\": 1}"}', '{"name": "other", "arguments": {}}',
    '{"name": "weather"}', '{"name": "weather", "arguments": null}', '{"name": 5, "arguments": {}}', '{"name": "weather", "arguments": ',
    "[TOOL_CALLS]", "weather[ARGS]", "think[CALL_ID]abc123def[ARGS]", TRICKY, "<|python_tag|>", "[", "]", ", ", ";", "{", "}", '"', "\\",
    " ", "\n", "\n\n", "text", "é", "🙂", "<", "<tool", "</tool_", "[TOOL_", "<think>", "</think>", "<th", "</thi", "null", ":",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=9).map("".join)


def output(pieces: Sequence[str], parser: ToolParser | OutputParser) -> Parsed:
    parsed = sum((parser.feed(piece) for piece in pieces), Parsed())
    return parsed + parser.flush()


def seen(pieces: Sequence[str], parser: ToolParser | OutputParser) -> tuple[str, str, list[tuple[int, str, str]]]:
    parsed = output(pieces, parser)
    return parsed.content, parsed.reasoning, [(call.index, call.name, call.arguments) for call in join_calls(parsed.calls)]


def calls(text: str, name: str) -> tuple[str, list[tuple[str, Any]]]:
    """(content, [(name, arguments)])."""
    content, _, found = seen([text], TOOL_FORMATS[name].make(NAMES))
    return content, [(name, json.loads(arguments)) for _, name, arguments in found]


def split(text: str, cuts: Sequence[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def parsers() -> dict[str, Callable[[], ToolParser | OutputParser]]:
    made: dict[str, Callable[[], ToolParser | OutputParser]] = {}
    for name, form in TOOL_FORMATS.items():
        made[name] = lambda form=form: form.make(NAMES)
        for inside, one in ((False, False), (True, True)):
            made[f"{name} {inside} {one}"] = lambda form=form, inside=inside, one=one: OutputParser(
                ThinkParser(THINK_TAGS["think"], inside), form.make(NAMES), one
            )
    return made


PARSERS = parsers()


@settings(max_examples=200)
@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=3))
@example("<tool_call>" + WEATHER + "</tool_call>", [3])
@example("[TOOL_CALLS]weather[ARGS]{}", [14])
@example("a \n<think>b</think> \n c", [3])
def test_every_split_of_a_text_gives_what_the_whole_gives(text, cuts):
    for name, make in PARSERS.items():
        whole = seen([text], make())
        assert seen(split(text, cuts), make()) == whole, name
        assert seen(list(text), make()) == whole, name


@settings(max_examples=300)
@given(TEXTS)
def test_a_text_without_calls_is_content_to_the_letter(text):
    for name, form in TOOL_FORMATS.items():
        content, _, found = seen([text], form.make(NAMES))
        if not found:
            assert content == text, name


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)))
def test_any_arguments_come_out_as_they_are(arguments):
    text = json.dumps(arguments, ensure_ascii=False)
    wanted = [("weather", arguments)]
    assert calls(f'<tool_call>{{"name": "weather", "arguments": {text}}}</tool_call>', "hermes")[1] == wanted
    assert calls(f'{{"parameters": {text}, "name": "weather"}}', "llama3")[1] == wanted
    assert calls(f"[TOOL_CALLS]weather[ARGS]{text}", "mistral")[1] == wanted
    assert calls(f'[TOOL_CALLS] [{{"name": "weather", "arguments": {text}}}]', "mistral")[1] == wanted
    assert calls(json.dumps([{"name": "weather", "arguments": text}]), "json")[1] == wanted, "arguments within a string"


def test_several_calls_with_text_before_and_behind():
    call = ("weather", {"city": "Zürich"})
    text = f"I look.\n<tool_call>\n{WEATHER}\n</tool_call>\n<tool_call>{WEATHER}</tool_call>\nDone."
    assert calls(text, "hermes") == ("I look.\nDone.", [call, call])
    assert calls(f"I look.\n[TOOL_CALLS] [{WEATHER}, {WEATHER}]\n", "mistral") == ("I look.", [call, call])
    newer = '[TOOL_CALLS]weather[CALL_ID]abc123def[ARGS]{"city": "Zürich"}[TOOL_CALLS]weather{"city": "Zürich"}'
    assert calls(newer, "mistral") == ("", [call, call])
    assert calls(f"<|python_tag|>{WEATHER}; {WEATHER}", "llama3") == ("", [call, call])
    assert calls(f"[{WEATHER},\n{WEATHER}]\n", "json") == ("", [call, call])


def test_a_call_begins_before_its_arguments_are_complete():
    parser = TOOL_FORMATS["hermes"].make(NAMES)
    begun = parser.feed('<tool_call>{"name": "weather", "arguments": {"ci')
    assert [(call.name, call.arguments) for call in begun.calls] == [("weather", '{"ci')]
    assert [call.arguments for call in parser.feed('ty": ').calls] == ['ty": ']
    assert parser.complete == 0
    assert [call.arguments for call in parser.feed("1}}").calls] == ["1}"]
    assert parser.complete == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "Write <tool_call> around it."),
        ("hermes", "<tool_call>weather in Zürich</tool_call>"),
        ("hermes", '<tool_call>{"name": "weather"'),
        ("hermes", 'a </tool_call> b "<tool_call>"'),
        ("mistral", "[TOOL_CALLS] and so on, {}"),
        ("mistral", "[TOOL_CALLS][]"),
        ("llama3", '{"name": "other", "parameters": {}}'),
        ("llama3", '<|python_tag|>print("hello")'),
        ("json", '{"name": "weather", "temperature": 20}'),
        ("json", f"It is {WEATHER}"),
        ("json", "[1, 2]"),
    ],
)
def test_what_only_looks_like_a_call_is_content(name, text):
    assert calls(text, name) == (text, [])


def test_a_call_that_is_cut_off_stays_one():
    assert seen(['<tool_call>{"name": "weather", "arguments": {"city": "Zü'], TOOL_FORMATS["hermes"].make(NAMES)) == (
        "", "", [(0, "weather", '{"city": "Zü')],
    )  # fmt: skip
    assert seen(['<tool_call>{"name": "weather", "arguments": {"city": </tool_call>b'], TOOL_FORMATS["hermes"].make(NAMES)) == (
        "b", "", [(0, "weather", '{"city": ')],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "begun", "rest"),
    [
        ("hermes", '<tool_call>{"name": "weather", "arguments": {"a": {"b": 1}', "}"),
        ("mistral", 'weather[ARGS]{"a": [1]'.join(["[TOOL_CALLS]weather[ARGS]{}[TOOL_CALLS]", ""]), "}"),
        ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"a": "b"', "}"),
        ("llama3", '{"name": "weather", "parameters": {"a": 1', "}"),
        ("json", '{"name": "weather", "arguments": {', "}"),
    ],
)
def test_a_call_is_cut_until_its_arguments_are_whole(name, begun, rest):
    parser = OutputParser(None, TOOL_FORMATS[name].make(NAMES), one_call=False)
    parser.feed(begun)
    assert (parser.called, parser.cut) == (True, True)
    parser.feed(rest)
    parser.flush()
    assert not parser.cut, "a bracket of the call itself may be missing"


def test_a_call_that_ended_is_not_cut_whatever_its_arguments_are():
    parser = OutputParser(None, TOOL_FORMATS["hermes"].make(NAMES), one_call=False)
    parser.feed('<tool_call>{"name": "weather", "arguments": {"city": </tool_call>')
    assert (parser.called, parser.cut) == (True, False)


def test_tags_without_doubt_need_no_known_name_and_no_arguments():
    assert calls('<tool_call>{"name": "other"}</tool_call>', "hermes") == ("", [("other", {})])
    assert calls('<tool_call>{"name": "other", "arguments": null}', "hermes") == ("", [("other", {})])


def test_an_output_that_may_have_one_call_ends_with_it():
    parser = OutputParser(None, TOOL_FORMATS["json"].make(NAMES), one_call=True)
    first = parser.feed(f"[{WEATHER[:-1]}")
    assert not parser.ended
    assert [call.index for call in join_calls((first + parser.feed("}, {") + parser.feed(WEATHER[1:])).calls)] == [0]
    assert parser.ended
    assert parser.flush() == Parsed()


@pytest.mark.parametrize(
    ("text", "inside", "reasoning", "content"),
    [
        ("<think>\na b\n</think>\n\nc \n", False, "a b", "c \n"),
        ("a b\n</think>\n\nc", True, "a b", "c"),
        ("<think>a</think>b", True, "a", "b"),
        (" \n c", False, "", " \n c"),
        ("c <think>d</think>", False, "", "c <think>d</think>"),
        ("<think>a <think> b</think><think>", False, "a <think> b", "<think>"),
        ("<think>a </thi", False, "a </thi", ""),
        ("<thin", False, "", "<thin"),
        ("<think></think>", False, "", ""),
    ],
)
def test_reasoning(text, inside, reasoning, content):
    assert seen([text], OutputParser(ThinkParser(THINK_TAGS["think"], inside), None, False)) == (content, reasoning, [])


def test_reasoning_is_assumed_where_the_opening_tag_is_left_out():
    assert seen(["a</think>b"], OutputParser(ThinkParser(THINK_TAGS["deepseek_r1"], False), None, False)) == ("b", "a", [])


def test_calls_come_after_reasoning_and_not_out_of_it():
    parser = OutputParser(ThinkParser(THINK_TAGS["think"], False), TOOL_FORMATS["hermes"].make(NAMES), False)
    call = f"<tool_call>{WEATHER}</tool_call>"
    content, reasoning, found = seen([f"<think>Perhaps {call}?</think>Yes. {call}"], parser)
    assert (content, reasoning, len(found)) == ("Yes.", f"Perhaps {call}?", 1)


def test_the_end_of_a_text_is_not_held_back_for_good():
    for text in ("a <tool", "a \n", "<think>b</think>a </thi"):
        parser = OutputParser(ThinkParser(THINK_TAGS["think"], False), TOOL_FORMATS["hermes"].make(NAMES), False)
        assert seen([text], parser)[0] == text.removeprefix("<think>b</think>")


def test_who_thinks_is_known_between_the_tags():
    parser = OutputParser(ThinkParser(THINK_TAGS["think"], False), None, False)
    thinks = []
    for piece in ("<thi", "nk>", "a", "</think", ">", "b"):
        parser.feed(piece)
        thinks.append(parser.thinks)
    assert thinks == [False, True, True, True, False, False]


def test_the_configuration_names_the_formats_that_there_are():
    assert (*TOOL_FORMATS,) == TOOL_PARSERS
    assert (*THINK_TAGS,) == REASONING_PARSERS


def test_formats_are_detected_by_their_own_markers():
    assert tool_format("auto", "x <tool_call> x") is TOOL_FORMATS["hermes"]
    assert tool_format("auto", "<tool_call><function=f>") is None, "XML, which no parser here reads"
    assert tool_format("auto", "'[TOOL_CALLS]'") is TOOL_FORMATS["mistral"]
    assert tool_format("auto", "<|python_tag|>") is TOOL_FORMATS["llama3"]
    assert tool_format("auto", "{{ messages }}") is None
    assert tool_format("none", "<tool_call>") is None
    assert tool_format("json", "<tool_call>") is TOOL_FORMATS["json"]
    assert think_tags("auto", "{{ x.split('</think>') }}") is THINK_TAGS["think"]
    assert think_tags("auto", "{{ messages }}") is None
    assert think_tags("none", "</think>") is None


class Shouted(ToolParser):
    """An own format: the whole text is the name of a tool."""

    def feed(self, text: str) -> Parsed:
        return Parsed(text.lower())

    def flush(self) -> Parsed:
        return Parsed()


def test_own_parsers_are_named_by_module_and_class():
    form = tool_format(f"{__name__}:Shouted", "")
    assert form is not None
    assert form.make(NAMES).feed("A") == Parsed("a")
    for name in (f"{__name__}:NAMES", f"{__name__}:Parsed"):
        with pytest.raises(ConfigError, match="no subclass"):
            tool_format(name, "")
    for name in (f"{__name__}:Gone", "no.module:Gone"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            tool_format(name, "")
