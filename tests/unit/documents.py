"""Names in Markdown that must exist: files, modules, configuration keys, make targets, commands and their options.

Promises: each problem is one line with the document, the line and the name. Names are looked for in inline code, code blocks and
links; a bare name such as `step.py` or `wire/` may lie in the folder of a path named before it on the line, or beside the document.
"""

import ast
import pathlib
import re
import shlex
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel

from deployments.cli.main import build_cli
from drafthouse.config.serving import ServingConfig
from tests.chaos.command import chaos_app
from tests.clients.command import clients_app
from tests.fuzz.command import fuzz_app

TEST_COMMANDS = {"tests.chaos": chaos_app, "tests.clients": clients_app, "tests.fuzz": fuzz_app}
"""Run by `python -m`."""

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("drafthouse", "drafter", "verifier", "controller", "simulator", "deployments", "benchmarks", "protos", "tests")
FOLDERS = (*PACKAGES, "docs", "k8s")
SUFFIXES = (".py", ".md", ".proto", ".toml")
"""A bare name with one of these is a file of ours; other files may be the reader's own."""

MODEL_SUFFIXES = (".safetensors", ".safetensors.index.json", ".gguf", "draft.json")
"""Files of models are the reader's own."""

FOREIGN_FILES = {"deployment_state.py"}
FOREIGN_OPTIONS = {"--from-file", "--no-deps"}
PROTO_PACKAGE = "drafthouse.v1."

_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)*/?")
_MODULE = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")
_KEY = re.compile(rf"({'|'.join(ServingConfig.model_fields)})(\.\w+)+")
_WORDS = re.compile(r"[a-z][a-z-]*")


@dataclass
class Line:
    """One line's names. `folders` is where bare names may lie: the paths named so far, and what is above them."""

    document: pathlib.Path
    text: str
    is_code: bool
    folders: list[pathlib.Path] = field(default_factory=list)

    def problems(self) -> Iterator[str]:
        if self.is_code:
            yield from self._command(self.text.partition(" #")[0])
            return
        for target in _LINK.findall(self.text):
            if "://" not in target and not self._leads(*target.partition("#")[::2]):
                yield f"{target}: this link leads nowhere"
        for span in _SPAN.findall(self.text):
            yield from self._span(span)

    def _leads(self, file: str, anchor: str) -> bool:
        path = self.document.parent / file if file else self.document
        return path.exists() and (not anchor or anchor in anchors(path.read_text(encoding="utf-8")))

    def _span(self, span: str) -> Iterator[str]:
        value = span.partition(":")[0]  # `key: value` in YAML
        if span.startswith(PROTO_PACKAGE):
            return
        if not value.endswith(SUFFIXES + MODEL_SUFFIXES) and (_KEY.fullmatch(value) or _MODULE.fullmatch(value)):
            if not (is_key(value) or is_name(value)):
                yield f"{value}: no module or configuration key"
        elif span.startswith("--"):
            if (option := re.split(r"[ =]", span)[0]) not in all_options() | FOREIGN_OPTIONS:
                yield f"{option}: no command has this option"
        elif " " in span or span.startswith("bench "):
            yield from self._command(f"drafthouse {span}" if span.startswith("bench ") else span)
        elif _PATH.fullmatch(span):
            yield from self._path(span, bare=True)

    def _command(self, text: str) -> Iterator[str]:
        """A line of shell: programs of ours, and paths among its words."""
        for part in re.split(r"\s*(?:&&|;|\|)\s*", text):
            try:
                words = shlex.split(part)
            except ValueError:
                continue  # prose or another language
            if not words:
                continue
            program = words[0].rpartition("/")[2]
            if program == "make" and len(words) > 1 and words[1] not in make_targets():
                yield f"make {words[1]}: no such target"
            elif program == "drafthouse" and len(words) > 1 and (_WORDS.fullmatch(words[1]) or words[1].startswith("--")):
                yield from unknown_words(cli(), words[1:], "drafthouse")
            elif program in ("python", "python3") and "-m" in words[:-1]:
                module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
                if _MODULE.fullmatch(module) and not is_name(module):
                    yield f"python -m {module}: no such module"
                if module in TEST_COMMANDS:
                    yield from unknown_words(command_of(module), rest, module)
            for word in words:
                if _PATH.fullmatch(word) and "/" in word:
                    yield from self._path(word, bare=False)

    def _path(self, path: str, bare: bool) -> Iterator[str]:
        first = path.partition("/")[0]
        if first not in FOLDERS and not (bare and (path.endswith(SUFFIXES) or path.endswith("/"))):
            return
        places = [ROOT, self.document.parent, *self.folders] if bare else [ROOT]
        found = next((hit for place in places for hit in sorted(place.glob(path.rstrip("/")))), None)
        if found is not None:
            self.folders += [found, *found.parents][:3]
        elif path not in FOREIGN_FILES:
            yield f"{path}: no such file"


def problems(document: pathlib.Path) -> list[str]:
    """What a document names and does not exist."""
    return [f"{document.name}:{number}: {problem}" for number, line in lines(document) for problem in line.problems()]


def lines(document: pathlib.Path) -> Iterator[tuple[int, Line]]:
    """Numbered from 1; lines of shell that end with a backslash are joined with the next."""
    fenced, begun, began = False, "", 0
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        is_code = fenced or line.startswith("    ")
        if is_code and line.endswith("\\"):
            begun, began = begun + line[:-1], began or number
            continue
        yield began or number, Line(document, begun + line, is_code)
        begun, began = "", 0


def anchors(text: str) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unknown_words(command: Any, words: list[str], name: str) -> Iterator[str]:
    """Subcommands and options that a command of click does not have."""
    known = {"--help"} | {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for i, word in enumerate(words):
        if word.startswith("--"):
            if (option := word.partition("=")[0]) not in known:
                yield f"{name} {option}: no such option"
        elif hasattr(command, "commands"):
            if word not in command.commands:
                yield f"{name} {word}: no such command"
            else:
                yield from unknown_words(command.commands[word], words[i + 1 :], f"{name} {word}")
            return


@cache
def cli() -> Any:
    """The command tree, of click."""
    return typer.main.get_command(build_cli())


@cache
def command_of(module: str) -> Any:
    return typer.main.get_command(TEST_COMMANDS[module])


@cache
def all_options() -> frozenset[str]:
    """Of all commands of `drafthouse` and of TEST_COMMANDS."""

    def options(command: Any) -> set[str]:
        own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        return own.union(*(options(one) for one in getattr(command, "commands", {}).values()))

    return frozenset(options(cli()).union(*(options(command_of(module)) for module in TEST_COMMANDS)))


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def is_name(dotted: str) -> bool:
    """A module, or what one defines at its top."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    return module.is_file() and path.name in defined_in(module)


@cache
def defined_in(module: pathlib.Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def is_key(dotted: str) -> bool:
    """A key of the configuration file."""
    models: list[type[BaseModel]] = [ServingConfig]
    for name in dotted.split("."):
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        if not fields:
            return False
        models = [kind for one in fields for kind in _models(one.annotation)]
    return True


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, list, tuple):
        for one in get_args(annotation):
            yield from _models(one)
