"""Held-out prompts in the package, so that tests and benchmarks need neither the corpus nor a network.

Promises: every prompt is whole lines of a file that no training row came from, one prompt per file,
`MIN_TOKENS` to `MAX_TOKENS` long under the demo tokenizer; its source and licence are beside it.
"""

import json
import pathlib
import random
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from drafthouse.demo_models.corpus import PACKAGES, SourceFile

FILE_NAME = "held_out_prompts.json"
PROMPTS = 60
MIN_TOKENS, MAX_TOKENS = 120, 200
FILES_PER_FOLDER = 3
"""At most so many files of one folder: the codecs in `encodings` are one text with other tables."""
VENDORED = "thirdparty"
"""Folders in which a package carries another one's files, under that one's licence."""

STANDARD_LIBRARY, STANDARD_LIBRARY_LICENCE = "python", "PSF-2.0"

NOTE = (
    "Short excerpts of files held out of the demo pair's training. Each is under the licence of the package that `file` "
    "begins with (python: the standard library); copyright stays with that package's authors."
)


@dataclass(frozen=True)
class HeldOutPrompt:
    """`tokens` counts the ids of `text` under the demo tokenizer, no special token added."""

    file: str
    licence: str
    tokens: int
    text: str


def licence_of(file_name: str) -> str:
    package = file_name.split("/")[0]
    return STANDARD_LIBRARY_LICENCE if package == STANDARD_LIBRARY else PACKAGES[package]


def excerpt(tokenizer: PreTrainedTokenizerFast, file: SourceFile, rng: random.Random) -> HeldOutPrompt | None:
    """Whole lines from a random top-level definition on; None where no start gives a length in range."""
    lines = file.text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if line.startswith(("def ", "class ", "async def ", "@", "import ", "from "))]
    rng.shuffle(starts)
    for start in starts:
        wanted = rng.randint(MIN_TOKENS, MAX_TOKENS)
        text, tokens = "", 0
        for line in lines[start:]:
            longer = len(tokenizer.encode(text + line, add_special_tokens=False))
            if longer > wanted:
                break
            text, tokens = text + line, longer
        if tokens >= MIN_TOKENS:
            return HeldOutPrompt(file.name, licence_of(file.name), tokens, text)
    return None


def pick_prompts(
    tokenizer: PreTrainedTokenizerFast, held_out: list[SourceFile], count: int = PROMPTS, seed: int = 4
) -> list[HeldOutPrompt]:
    """`count` prompts, half of them from the standard library where it has as many."""
    rng = random.Random(seed)
    shuffled = sorted(held_out, key=lambda file: file.name)
    rng.shuffle(shuffled)
    files, folders = [], Counter[str]()
    for file in shuffled:
        folder = file.name.rpartition("/")[0]
        folders[folder] += folder != STANDARD_LIBRARY
        if folders[folder] <= FILES_PER_FOLDER and VENDORED not in file.name.split("/"):
            files.append(file)
    drawn = [prompt for file in files if (prompt := excerpt(tokenizer, file, rng)) is not None]
    library = [prompt for prompt in drawn if prompt.licence == STANDARD_LIBRARY_LICENCE][: count // 2]
    others = [prompt for prompt in drawn if prompt.licence != STANDARD_LIBRARY_LICENCE]
    return sorted(library + others[: count - len(library)], key=lambda prompt: prompt.file)


def write_prompts(path: pathlib.Path, prompts: list[HeldOutPrompt]) -> None:
    content = {"note": NOTE, "prompts": [asdict(prompt) for prompt in prompts]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


def read_prompts(path: pathlib.Path | None = None) -> list[HeldOutPrompt]:
    """The prompts of a file; None reads the ones in the package."""
    path = path or pathlib.Path(__file__).parent / FILE_NAME
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return [HeldOutPrompt(**prompt) for prompt in content["prompts"]]
