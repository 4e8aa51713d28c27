"""Nothing outside a top-level folder uses its underscore names (CONTRIBUTING.md). Read from the source, nothing is imported.

An attribute of `self` or `cls` is looked up through the class's bases, as far as they are the project's own. Of other objects only the
name is known: it must be defined somewhere in the folder that uses it, or nowhere in the project.
"""

import ast
import pathlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("drafthouse", "drafter", "verifier", "controller", "simulator", "deployments", "benchmarks")


def private(name: str) -> bool:
    return name.startswith("_") and name.strip("_") != "" and not name.endswith("__")


@dataclass
class Class:
    """`private` names that it sets or defines itself; `bases` as (folder, name)."""

    folder: str
    private: set[str]
    bases: list[tuple[str, str]]


@dataclass
class Folder:
    classes: dict[str, list[Class]] = field(default_factory=lambda: defaultdict(list))
    private: set[str] = field(default_factory=set)


@dataclass
class Use:
    """Of a private name; `owner` is the class whose `self` it is taken of."""

    where: str
    name: str
    owner: Class | None = None


class Reader(ast.NodeVisitor):
    """Of one file: what it defines, into `folder`, and what it uses."""

    def __init__(self, name: str, path: str, folder: Folder):
        self.name, self.path, self.folder = name, path, folder
        self.imported: dict[str, str] = {}  # name: the folder that it comes from
        self.uses: list[Use] = []
        self._class: Class | None = None

    def _define(self, name: str) -> None:
        if private(name):
            self.folder.private.add(name)
            if self._class is not None:
                self._class.private.add(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for alias in node.names:
            self.imported[alias.asname or alias.name] = module.split(".")[0]
        if module.split(".")[0] not in (self.name, ""):
            names = [*module.split("."), *(alias.name for alias in node.names)]
            self.uses += [Use(f"{self.path}:{node.lineno}", name) for name in names if private(name)]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._define(node.name)
        names = [base.id for base in map(_without_parameters, node.bases) if isinstance(base, ast.Name)]
        outer, self._class = self._class, Class(self.name, set(), [(self.imported.get(name, self.name), name) for name in names])
        self.folder.classes[node.name].append(self._class)
        self.generic_visit(node)
        self._class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._define(node.name)
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._define(node.name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._define(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if isinstance(node.ctx, ast.Store) and own:
            self._define(node.attr)
        elif private(node.attr):
            self.uses.append(Use(f"{self.path}:{node.lineno}", node.attr, self._class if own else None))
        self.generic_visit(node)


def _without_parameters(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base


def trespasses(sources: dict[str, str]) -> list[str]:
    """`sources` by path from the root; where a private name of another folder is used, set or overridden."""
    folders: dict[str, Folder] = defaultdict(Folder)
    readers = []
    for path, source in sources.items():
        name = path.split("/")[0]
        reader = Reader(name, path, folders[name])
        reader.visit(ast.parse(source))
        readers.append((reader, folders[name]))

    def lineage(one: Class) -> Iterator[Class]:
        for folder, name in one.bases:
            for base in folders[folder].classes.get(name, ()) if folder in folders else ():
                yield base
                yield from lineage(base)

    found = []
    for name, folder in list(folders.items()):
        for label, classes in folder.classes.items():
            for one in classes:
                above = {x for base in lineage(one) if base.folder != name for x in base.private}
                found += [f"{name}: {label} overrides {x}" for x in sorted(one.private & above)]
    for reader, folder in readers:
        for use in reader.uses:
            if use.owner is not None:
                near = [use.owner, *(base for base in lineage(use.owner) if base.folder == reader.name)]
                far = [base for base in lineage(use.owner) if base.folder != reader.name]
                foreign = not any(use.name in c.private for c in near) and any(use.name in c.private for c in far)
            else:
                elsewhere = any(use.name in other.private for other in folders.values() if other is not folder)
                foreign = use.name not in folder.private and elsewhere
            if foreign:
                found.append(f"{use.where}: {use.name}")
    return found


def test_nothing_uses_the_underscore_names_of_another_folder() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert len(sources) > 100
    assert trespasses(sources) == []


THERE = """
class Base:
    def __init__(self):
        self._inner = 1

    def _step(self):
        return self._inner

def _helper(): ...
"""


def test_each_way_to_trespass_is_seen() -> None:
    def found(*lines: str) -> list[str]:
        return trespasses({"there/base.py": THERE, "here/use.py": "\n".join(["from there.base import Base", *lines])})

    assert found("class Own(Base):", "    def open(self):", "        self._own = 1", "        return self._own") == []
    assert found("def f(x):", "    return x._inner") == ["here/use.py:3: _inner"]
    assert found("class Own(Base):", "    def open(self):", "        return self._inner") == ["here/use.py:4: _inner"]
    assert found("class Own(Base):", "    def open(self):", "        self._inner = 2") == ["here: Own overrides _inner"]
    assert found("class Own(Base):", "    def _step(self):", "        return 1") == ["here: Own overrides _step"]
    assert found("from there.base import _helper") == ["here/use.py:2: _helper"]
    assert trespasses({"there/base.py": THERE, "there/use.py": "def f(x):\n    return x._inner"}) == [], "a folder's own"
