"""Which texts a target is asked for: from seeds, from the user's file and from its own turns."""

import json
import pathlib
import re
from collections import Counter

import pytest

from drafthouse.distillation.prompt_encoder import MARK, PromptEncoder
from drafthouse.distillation.prompt_file import fitting, read_prompts
from drafthouse.distillation.prompts import ATTEMPTS, OWN, TEMPERATURES, USERS, Message, Prompts
from drafthouse.distillation.seeds import KINDS, SLOT, Draws, shipped_seeds
from drafthouse.distillation.user_turns import is_usable
from drafthouse.errors import ConfigError, ModelError, RequestError

MANY = 3600


class Letters:
    """A tokenizer: a token for each character."""

    all_special_ids = (0,)
    bos_token_id = eos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [ord(character) for character in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


def _prompts(users: int = 0, chat: bool = True, seed: int = 0) -> Prompts:
    mine: list[tuple[Message, ...]] = [({"role": "user", "content": f"mine {i}"},) for i in range(users)]
    return Prompts(shipped_seeds(), mine, seed, chat)


def _render(messages: list[Message]) -> str:
    if messages[0]["role"] == "system":
        raise RequestError("no system messages here", "messages")
    return "".join(f"<{m['role']}>{m['content']}|" for m in messages) + "<assistant>"


ENCODER = PromptEncoder(Letters(), _render, [0])  # type: ignore[arg-type]


def test_half_of_the_turns_are_the_targets_own_and_the_seeds_are_of_all_kinds() -> None:
    kinds = Counter(_prompts().task(number).kind for number in range(MANY))
    assert kinds[OWN] == MANY // 2
    assert all(kinds[kind] == MANY // 2 // len(KINDS) for kind in KINDS)


def test_each_kind_comes_at_each_temperature_equally_often() -> None:
    tasks = [_prompts().task(number) for number in range(MANY)]
    counts = Counter((task.kind, task.temperature) for task in tasks)
    assert len(counts) == (len(KINDS) + 1) * len(TEMPERATURES)
    assert max(counts[kind, t] for kind in KINDS for t in TEMPERATURES) == min(counts[kind, t] for kind in KINDS for t in TEMPERATURES)


def test_seeds_make_thousands_of_different_prompts_without_a_slot_left() -> None:
    tasks = [_prompts().task(number) for number in range(1, 2 * MANY, 2)]
    texts = [task.messages[0]["content"] for task in tasks if task.messages]
    assert len(set(texts)) > 3000
    assert not any(SLOT.search(text) for text in texts)
    assert 0.08 < sum(bool(task.follow_up) for task in tasks) / len(tasks) < 0.17


def test_every_slot_names_a_list_that_is_not_empty() -> None:
    seeds = shipped_seeds()
    texts = json.dumps(seeds.model_dump())
    assert {*re.findall(r"<<(\w+)>>", texts)} <= {name for name, entries in seeds.lists.items() if entries}
    assert set(seeds.kinds) == set(KINDS)


def test_a_task_depends_on_seed_number_and_attempt_alone() -> None:
    assert _prompts().task(77) == _prompts().task(77)
    assert _prompts().task(77) != _prompts(seed=1).task(77)
    assert _prompts().task(78).seed != _prompts().task(78, attempt=1).seed
    seeds = [_prompts().task(number, attempt).seed for number in range(200) for attempt in range(ATTEMPTS + 1)]
    assert len(set(seeds)) == len(seeds)


def test_after_refused_turns_of_its_own_a_seed_takes_the_place() -> None:
    assert _prompts().task(4, ATTEMPTS - 1).kind == OWN
    assert _prompts().task(4, ATTEMPTS).messages is not None


def test_each_of_the_users_prompts_comes_once_at_each_temperature() -> None:
    tasks = [task for number in range(400) if (task := _prompts(users=5).task(number)).kind == USERS]
    asked = Counter((task.messages[0]["content"], task.temperature) for task in tasks if task.messages)
    assert asked == {(f"mine {i}", t): 1 for i in range(5) for t in TEMPERATURES}
    assert _prompts(users=5).task(tasks[0].number, attempt=1).kind in KINDS, "one that does not fit gives its place to a seed"


def test_a_model_without_a_template_goes_on_with_texts() -> None:
    tasks = [_prompts(users=2, chat=False).task(number) for number in range(MANY)]
    assert all(task.beginning is not None and task.messages is None and task.opening is None for task in tasks)
    assert sum(task.beginning == "" for task in tasks) == MANY // 2
    assert len({task.beginning for task in tasks}) > 500
    assert sum(task.beginning == "mine 1" for task in tasks) == len(TEMPERATURES)


def test_draws_reach_all_entries() -> None:
    assert {Draws(n).pick("abcde") for n in range(100)} == set("abcde")


def test_a_turn_of_its_own_begins_where_the_users_text_does_and_ends_where_the_template_goes_on() -> None:
    assert Letters().decode(ENCODER.turn("Why")) == "<user>Why"
    assert ENCODER.turn_stops == {0, ord("|")}
    assert ENCODER.written([*map(ord, "Why?|")]) == "Why?"
    assert ENCODER.written([*map(ord, "Why?")]) == "Why?"
    assert ENCODER.written([ord("W"), 0, ord("y"), ord("|")]) is None, "a special token within"


def test_a_template_that_loses_the_users_text_is_refused() -> None:
    with pytest.raises(ModelError, match="leaves out the text of user messages"):
        PromptEncoder(Letters(), lambda messages: "<assistant>", [0])
    assert MARK not in ENCODER._before


def test_a_beginning_has_at_least_one_token() -> None:
    encoder = PromptEncoder(Letters(), None, [0])
    assert encoder.beginning("") == [0]
    assert encoder.beginning("ab") == [0, 97, 98]


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("What is the tallest mountain in the world?", True),
        ("", False),
        ("Hi", False),
        ("again and again " * 12, False),
        ("1234 5678 / 99 == 17 + 4", False),
        ("a broken \ufffd character in here", False),
        ("".join(chr(97 + i * i % 23 + i % 3) for i in range(1300)), False),
    ],
)
def test_turns_that_are_not_worth_an_answer(text: str, usable: bool) -> None:
    assert is_usable(text, [*map(ord, text)]) is usable


def _file(tmp_path: pathlib.Path, *lines: str) -> pathlib.Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_prompts_and_conversations_are_read(tmp_path: pathlib.Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    path = _file(tmp_path, '{"prompt": "Explain tides."}', "", json.dumps({"messages": talk}))
    assert fitting(path, read_prompts(path), ENCODER, 100) == [({"role": "user", "content": "Explain tides."},), tuple(talk)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 2: it is no JSON"),
        ("[]", "line 2: it must be an object"),
        ("{}", 'line 2: a line has either "prompt" or "messages"'),
        ('{"prompt": 3}', "line 2: prompt: Input should be a valid string"),
        ('{"prompt": ""}', "line 2: prompt: "),
        ('{"text": "x"}', "line 2: text: Extra inputs are not permitted"),
        ('{"messages": []}', "line 2: messages: "),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "line 2: messages.0.role: "),
        ('{"messages": [{"role": "user"}]}', "line 2: messages.0.content: Field required"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "line 2: messages: the last one must be the user's"),
        ('{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}', "line 2: messages: no system messages"),
        ('{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}', 'line 2: a line has either "prompt" or "messages"'),
    ],
)
def test_faults_name_the_line_and_the_field(tmp_path: pathlib.Path, line: str, fault: str) -> None:
    path = _file(tmp_path, '{"prompt": "good"}', line)
    with pytest.raises(ConfigError, match=re.escape(f"{path}, {fault}")):
        fitting(path, read_prompts(path), ENCODER, 100)


def test_files_without_a_prompt_that_can_be_used(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="it holds no prompts"):
        read_prompts(_file(tmp_path, "", "  "))
    with pytest.raises(ConfigError, match="none\\.jsonl: No such file"):
        read_prompts(tmp_path / "none.jsonl")
    path = _file(tmp_path, json.dumps({"prompt": "long " * 30}), '{"prompt": "short"}')
    assert len(fitting(path, read_prompts(path), ENCODER, 40)) == 1
    with pytest.raises(ConfigError, match="none of its 2 prompts can be used: each has more than 10 tokens"):
        fitting(path, read_prompts(path), ENCODER, 10)
    talk = _file(tmp_path, '{"messages": [{"role": "user", "content": "x"}]}')
    with pytest.raises(ConfigError, match="line 1: messages: the target has no chat template"):
        fitting(talk, read_prompts(talk), PromptEncoder(Letters(), None, [0]), 100)
