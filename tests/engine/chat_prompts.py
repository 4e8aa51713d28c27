"""Fifty chats that our encoding is compared on with transformers': `prompts_50.json`, whose long documents are made here.

Promises: the same chats on every machine; none has a control token of any family in it, so that both encodings must be equal.
"""

import json
import pathlib
import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

PROMPTS = pathlib.Path(__file__).with_name("prompts_50.json")

ENGLISH = (
    ("The old harbour", "A careful gardener", "A committee", "Her second letter", "This measurement", "A night train", "Every apprentice"),
    ("crosses", "describes", "has forgotten", "repairs", "will not replace", "depends on", "waits beside"),
    ("the narrow bridge", "an unfinished map", "the price of salt", "three earlier drafts", "the keeper's diary", "a broken pump"),
    ("before the winter", "in 1873", "without a word", "(as far as anyone knows)", "for 12.5% of the year", "although it rained"),
)
CHINESE = (
    ("老港口", "细心的园丁", "委员会", "第二封信", "这次测量", "夜班火车", "每个学徒"),
    ("穿过了", "描述了", "忘记了", "修好了", "不会取代", "取决于", "等待着"),
    ("狭窄的桥", "未完成的地图", "盐的价格", "三份旧稿", "守塔人的日记", "坏掉的水泵"),
    ("在冬天之前", "在一八七三年", "一言不发", "（据大家所知）", "占全年的百分之十二", "尽管下着雨"),
)
CODE = (
    ("total", "index", "rows[i]", "self._cache", "x2", "name"),
    (" = ", " += ", " == ", " < ", " -> ", " // "),
    ("len(items)", "parse(line, strict=True)", "{'key': [1, 2]}", 'f"{value:>8.2f}"', "0x1F", "lambda a, b: a - b"),
    ("  # keep", ";", " if ok else None", "\n", "\n\n    ", "  "),
)
KINDS = {"english": (ENGLISH, " ", ". "), "chinese": (CHINESE, "", "。"), "code": (CODE, "", "\n    ")}
"""The parts of a sentence, and what stands between them and behind it."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    name: str
    messages: list[dict[str, str]]


def chat_prompts() -> list[ChatPrompt]:
    return [_prompt(**fields) for fields in json.loads(PROMPTS.read_text(encoding="utf-8"))]


def _prompt(name: str, messages: list[dict[str, str]], document: dict[str, str | int] | None = None) -> ChatPrompt:
    if document is not None:
        text = make_document(**document)  # type: ignore[arg-type]
        messages = [message | {"content": message["content"].replace("{document}", text)} for message in messages]
    return ChatPrompt(name, messages)


def make_document(kind: str, seed: int, sentences: int) -> str:
    parts, between, behind = KINDS[kind]
    source = random.Random(seed)
    return "".join(between.join(source.choice(part) for part in parts) + behind for _ in range(sentences))


def expected_ids(tokenizer: PreTrainedTokenizerBase, prompt: ChatPrompt) -> list[int]:
    """What transformers makes of the chat, up to where the assistant's turn begins."""
    return list(tokenizer.apply_chat_template(prompt.messages, tokenize=True, add_generation_prompt=True)["input_ids"])
